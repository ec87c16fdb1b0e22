"""The files in bench/results: JSON Lines, a row a measurement, sorted.

A study of networks (`erasing`, `ablation`, `paper`) has a row a cell: what the cell's file holds,
less what no table or figure needs. A timed run (`cpu`, `calls`, `breakdown`, `growth`) has one row
that says where and when it was made, then its rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from awm_defense.reproduce.cells import Cell

RESULTS = Path(__file__).parent / "results"
KEPT = ("metrics", "shares", "curve", "seconds", "notes", "device")
KEPT_OF_VERDICT = ("backdoored", "target", "score", "norm", "unit", "surest")
CELL = [field.name for field in fields(Cell)]

Row = dict[str, Any]
Measured = dict[Cell, Row]


def compact(cell: Cell, found: Mapping[str, Any]) -> Row:
    """The row of a cell from its result, as `awm reproduce` and `bench.erasing` keep it."""
    row = {name: getattr(cell, name) for name in CELL if name != "limit" or cell.limit is not None}
    row |= {name: found[name] for name in KEPT if found.get(name) not in (None, [])}
    verdict = found.get("verdict")
    if verdict:
        row["verdict"] = {
            name: round(verdict[name], 4) if name == "score" else verdict[name]
            for name in KEPT_OF_VERDICT
            if verdict.get(name) is not None
        }
    return row


def cell_of(found: Mapping[str, Any]) -> Cell:
    """The cell of a row, or of a cell's file."""
    return Cell(**{name: found[name] for name in CELL if name in found})


def read_study(name: str) -> Measured:
    """The rows of a study of networks, by cell."""
    return {cell_of(row): row for row in read_rows(RESULTS / f"{name}.jsonl")}


def write_study(path: Path, rows: Iterable[Row]) -> None:
    """Write the rows of a study of networks, sorted by cell."""
    write_rows(path, sorted(rows, key=_order))


def read_run(name: str) -> dict[str, Any]:
    """A timed run: the facts about it, and its `rows`."""
    about, *rows = read_rows(RESULTS / f"{name}.jsonl")
    return {**about, "rows": rows}


def write_run(path: Path, run: Mapping[str, Any]) -> None:
    """Write a timed run: the facts about it first, then its `rows` in their order."""
    about = {key: value for key, value in run.items() if key != "rows"}
    write_rows(path, [about, *run["rows"]])


def read_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """By network, then images (one a class, 0, 1, ...), method and seed."""
    size = -1 if row["n"] is None else row["n"]
    return row["arch"], row["attack"], size, row["method"], row["seed"], row.get("limit") or 0
