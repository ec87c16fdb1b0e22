"""Trials of a few runs each, kept in small files of their own."""

from __future__ import annotations

from bench.results import RESULTS, read_rows
from bench.tables.markdown import table


def no_images() -> str:
    """`default` on fifty images made from the network: ACC / ASR / ACC on the target class."""
    kinds = {"before": "before", "default": "`default`", "natural": "with natural steps"}
    return table(["network", *kinds.values()], _rows("no-images", list(kinds)))


def retuned() -> str:
    """Purified, and fine-tuned on 100 clean images after that: ACC / ASR."""
    head = ["network", "purified", "fine-tuned afterwards"]
    return table(head, _rows("retuned", ["purified", "retuned"]))


def authors() -> str:
    """`official` against the authors' program, a run a pair: ACC / ASR, target class counted."""
    head = ["network", "reported of the authors' code", "`official`", "an independent rewrite"]
    kinds = ("reported", "official", "rewrite")
    rows = [
        [row["network"], *(", ".join(map(_slashed, row[kind])) for kind in kinds)]
        for row in read_rows(RESULTS / "authors.jsonl")
    ]
    return table(head, rows)


def _rows(name: str, kinds: list[str]) -> list[list[str]]:
    return [
        [row["network"], *(_slashed(row[kind]) for kind in kinds)]
        for row in read_rows(RESULTS / f"{name}.jsonl")
    ]


def _slashed(values: list[float]) -> str:
    return " / ".join(f"{value:.1f}" for value in values)
