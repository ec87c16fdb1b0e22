"""python -m bench.tables: fill the tables of the documents, or check them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import bench.tables
from bench.tables.markers import fill
from bench.tables.registry import TABLES

ROOT = Path(__file__).resolve().parents[2]


def documents(root: Path = ROOT) -> list[Path]:
    """The documents that may have tables."""
    return [root / "README.md", root / "bench" / "README.md", *sorted((root / "docs").glob("*.md"))]


def stale(paths: list[Path]) -> dict[Path, str]:
    """The documents whose tables are not those of the result files, as they should be.

    Raises:
        ValueError: a document has a marker that can't be filled.
    """
    found = {}
    for path in paths:
        text = path.read_text(encoding="utf-8")
        try:
            filled = fill(text, TABLES)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if filled != text:
            found[path] = filled
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.tables",
        description=bench.tables.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if one is stale")
    parser.add_argument("--show", choices=TABLES, metavar="NAME", help=", ".join(TABLES))
    given = parser.parse_args()
    if given.show:
        print(TABLES[given.show]())
        return
    try:
        found = stale(documents())
    except ValueError as error:
        parser.error(str(error))
    for path, text in found.items():
        print(f"{path.relative_to(ROOT)}: {'stale' if given.check else 'filled'}")
        if not given.check:
            path.write_text(text, encoding="utf-8")
    sys.exit(1 if found and given.check else 0)


if __name__ == "__main__":
    main()
