"""Tables of the paper with our value, the paper's and the difference, as JSON and as Markdown."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.resources import files
from typing import Any

from awm_defense.reproduce.cells import Cell
from awm_defense.reproduce.layouts import TABLES, Layout
from awm_defense.reproduce.summary import Results, describe, mean_and_spread, with_seeds

MISSING = "missing"
KEY = (
    "ACC and ASR in percent. ASR counts images of the target class, as the paper does; in brackets "
    "without them. ± is the standard deviation over seeds."
)


def table_cells(layout: Layout, seeds: int, limit: int | None) -> list[Cell]:
    """All cells of a table, each once."""
    places = dict.fromkeys(replace(cell, limit=limit) for _, row in layout.rows for cell in row)
    return [cell for place in places for cell in with_seeds(place, seeds)]


def read_paper(table: str) -> dict[str, dict[str, list[float]]]:
    """The paper's numbers: "NETWORK ATTACK SIZE" to method to [ACC, ASR]."""
    text = files("awm_defense.reproduce").joinpath("paper.json").read_text(encoding="utf-8")
    return json.loads(text)[table]


def make_table(
    name: str, arch: str, results: Results, *, seeds: int, limit: int | None
) -> dict[str, Any]:
    """A table as JSON holds it.

    Args:
        name: a key of `TABLES`.
        arch: the network, where the table has one only.
        results: of cells, as their files hold them; what is not in it is missing.
        seeds, limit: of the cells to show.

    Returns:
        title; labels and columns, the heads; rows, each with its labels and entries. An entry has
        its cell's arch, attack, n and method, the number of seeds measured, and for acc, asr_all
        and asr: ours (mean), spread (standard deviation), paper, difference; None where there is
        none.
    """
    layout = TABLES[name](arch)
    paper = read_paper(name)
    return {
        "title": layout.title,
        "measured": describe(table_cells(layout, seeds, limit), results, limit),
        "labels": list(layout.labels),
        "columns": list(layout.columns),
        "rows": [
            {
                "labels": list(labels),
                "entries": [
                    _entry(replace(cell, limit=limit), paper, results, seeds) for cell in row
                ],
            }
            for labels, row in layout.rows
        ],
    }


def _entry(
    cell: Cell, paper: Mapping[str, Mapping[str, list[float]]], results: Results, seeds: int
) -> dict[str, Any]:
    measured = [results[one] for one in with_seeds(cell, seeds) if one in results]
    papers = paper.get(" ".join(cell.parts[:3]), {}).get(cell.method, [None, None])
    entry: dict[str, Any] = {
        "arch": cell.arch,
        "attack": cell.attack,
        "n": cell.n,
        "method": cell.method,
        "seeds": len(measured),
    }
    for name, theirs in (("acc", papers[0]), ("asr_all", papers[1]), ("asr", None)):
        # A network without a backdoor has an accuracy only.
        values = [found["metrics"][name] for found in measured if name in found["metrics"]]
        ours, spread = mean_and_spread(values)
        entry[name] = {
            "ours": ours,
            "spread": spread,
            "paper": theirs,
            "difference": None if ours is None or theirs is None else ours - theirs,
        }
    return entry


def render(table: Mapping[str, Any]) -> str:
    """A table from `make_table` in Markdown, aligned to be read as text, too."""
    heads = [*table["labels"], ""]
    for column in table["columns"]:
        heads += [f"{column} ACC", "ASR"]
    lines = [heads]
    for row in table["rows"]:
        acc, asr_all, asr = (
            [entry[name] for entry in row["entries"]] for name in ("acc", "asr_all", "asr")
        )
        ours, paper, difference = ["ours"], ["paper"], ["difference"]
        for one, every, other in zip(acc, asr_all, asr, strict=True):
            ours += [_ours(one), _ours(every) + ("" if other["ours"] is None else _honest(other))]
            paper += [_number(one["paper"]), _number(every["paper"])]
            difference += [_signed(one["difference"]), _signed(every["difference"])]
        lines.append(row["labels"] + ours)
        if any(entry["paper"] is not None for entry in acc):
            blank = [""] * len(row["labels"])
            lines += [blank + paper, blank + difference]
    return f"{table['title']}\n\n{_align(lines)}\n\n{KEY} {table['measured']}.\n"


def _ours(value: Mapping[str, float | None]) -> str:
    if value["ours"] is None:
        return MISSING
    spread = "" if value["spread"] is None else f"±{value['spread']:.2f}"
    return f"{value['ours']:.2f}{spread}"


def _honest(value: Mapping[str, float | None]) -> str:
    return f" ({value['ours']:.2f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _align(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def row(words: Iterable[str]) -> str:
        padded = (word.ljust(width) for word, width in zip(words, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    return "\n".join([row(lines[0]), row("-" * width for width in widths), *map(row, lines[1:])])
