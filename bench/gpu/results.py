"""One JSON of a whole run, and a table of it.

python -m bench.gpu.results collect PARTS FILE     what gpu_check.sh left in PARTS, into FILE
python -m bench.gpu.results show FILE              as Markdown
"""

from __future__ import annotations

import json
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from bench.gpu.setting import NO_GPU, Row

STOPPED = {124: "stopped at its time limit", 137: "stopped at its time limit"}


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version(), "torch": torch.__version__}
    found["cuda"] = torch.version.cuda
    for package in ("triton", "awm-kernels"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    if torch.cuda.is_available():
        found["cudnn"] = str(torch.backends.cudnn.version())
    return found


def part_rows(parts: Path) -> list[Row]:
    """How each part ended: 1 if it did well, else 0."""
    rows = []
    for line in (parts / "parts.tsv").read_text().splitlines():
        name, status, seconds = line.split("\t")
        code = int(status)
        note = (
            f"{seconds} s" if code == 0 else STOPPED.get(code, f"exit status {code}, see the log")
        )
        rows.append(Row(f"part: {name}", int(code == 0), "", None, ">= 1", code == 0, note))
    return rows


def test_rows(report: Path) -> list[Row]:
    """What `pytest --junit-xml` counted."""
    if not report.exists():
        return [Row("GPU tests passed", 0, "tests", None, None, False, "did not finish")]
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    count = {
        key: sum(int(suite.get(key, 0)) for suite in suites)
        for key in ("tests", "failures", "errors", "skipped")
    }
    bad = count["failures"] + count["errors"]
    passed = count["tests"] - bad - count["skipped"]
    note = f"{bad} failed, {count['skipped']} skipped"
    met = (bad == 0) if passed + bad else None
    return [Row("GPU tests passed", passed, "tests", None, "0 failed", met, note)]


def collect(parts: Path) -> dict[str, Any]:
    gpu = torch.cuda.is_available()
    rows = [row._asdict() for row in (*part_rows(parts), *test_rows(parts / "tests.xml"))]
    for name in ("ceilings", "flat", "trigger", "purify", "convolutions"):
        path = parts / f"{name}.json"
        rows += json.loads(path.read_text()) if path.exists() else []
    return {
        "device": torch.cuda.get_device_name() if gpu else "none",
        "note": "" if gpu else NO_GPU,
        "versions": versions(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "rows": rows,
    }


def as_markdown(found: dict[str, Any]) -> str:
    """A table of the rows; convolutions, of which there are many, one line a layer."""
    plain = [row for row in found["rows"] if not _is_layer(row)]
    lines = [
        f"{found['device']}, torch {found['versions']['torch']}, {found['date']}. {found['note']}",
        "",
        "| what | value | baseline | goal | met | note |",
        "|---|---|---|---|---|---|",
    ]
    for row in plain:
        met = {True: "yes", False: "no", None: ""}[row["met"]]
        base = "" if row["baseline"] is None else f"{row['baseline']:.4g}"
        value = f"{row['value']:.4g} {row['unit']}".strip()
        lines.append(
            f"| {row['name']} | {value} | {base} | {row['goal'] or ''} | {met} | {row['note']} |"
        )
    return "\n".join([*lines, "", *_layer_table(found["rows"])])


def _is_layer(row: dict[str, Any]) -> bool:
    return row["name"].startswith("conv, ") and row["name"].count(", ") == 4


def _layer_table(rows: list[dict[str, Any]]) -> list[str]:
    passes: dict[str, dict[str, str]] = {}
    for row in filter(_is_layer, rows):
        _, network, dtype, layer, which = row["name"].split(", ")
        cell = f"{row['value']:.1f} / {row['baseline']:.1f}"
        passes.setdefault(f"| {network} | {dtype} | {layer} |", {})[which] = cell
    if not passes:
        return []
    kinds = ("forward", "input gradient", "mask gradient")
    head = ["Fused kernel / multiply + library, microseconds:", ""]
    head += [f"| network | dtype | layer | {' | '.join(kinds)} |", "|---|---|---|---|---|---|"]
    return [*head, *(f"{k} {' | '.join(v.get(p, '') for p in kinds)} |" for k, v in passes.items())]


def main() -> None:
    match sys.argv[1:]:
        case ["collect", parts, target]:
            Path(target).write_text(json.dumps(collect(Path(parts)), indent=1) + "\n")
        case ["show", path]:
            print(as_markdown(json.loads(Path(path).read_text())))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
