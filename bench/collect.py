"""Put the cells that `awm reproduce` or `bench.erasing` wrote into one compact table.

python -m bench.collect OUT/cells --into bench/results/erasing.jsonl

A row of the same cell is replaced, all others stay.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from awm_defense.files.manifest import read_manifest
from bench.results import cell_of, compact, read_rows, write_study


def collect(cells: Path, into: Path) -> int:
    """Put the cells in the folder `cells` into the table `into`; how many there were.

    Raises:
        ValueError: where the folder holds none.
    """
    found = [read_manifest(path) for path in sorted(cells.glob("*.json"))]
    if not found:
        raise ValueError(f"CELLS: expected a folder of cells (*.json), got {cells}")
    rows = {cell_of(row): row for row in (read_rows(into) if into.exists() else ())}
    rows |= {cell_of(one): compact(cell_of(one), one) for one in found}
    write_study(into, rows.values())
    return len(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.collect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cells", type=Path, metavar="CELLS", help="folder of cells")
    parser.add_argument("--into", required=True, type=Path, metavar="FILE", help="a .jsonl")
    given = parser.parse_args()
    try:
        count = collect(given.cells, given.into)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"{given.into}: {count} cells put in")


if __name__ == "__main__":
    main()
