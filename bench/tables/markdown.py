"""Markdown: a table, and figures in its cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

NOTHING = "-"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with one line a row."""
    above, *lines = (f"| {' | '.join(line)} |" for line in (head, *rows))
    return "\n".join([above, "|" + "---|" * len(head), *lines])


def mean(values: Sequence[float], digits: int = 1) -> str:
    return f"{fmean(values):.{digits}f}" if values else NOTHING


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard deviation, as far as there are values for them."""
    if len(values) < 2:
        return mean(values, digits)
    return f"{fmean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def span(values: Sequence[float], digits: int = 1) -> str:
    """The smallest and the largest value."""
    low, high = (f"{pick(values):.{digits}f}" for pick in (min, max))
    return low if low == high else f"{low} to {high}"
