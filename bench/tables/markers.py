"""Markers in a document, and what stands between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

MARKED = re.compile(r"(<!-- table: (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)
BEGIN, END = "<!-- table: ", "<!-- end -->"


def fill(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """The text with each marked table made anew.

    Raises:
        ValueError: a marker names no table, or has no end.
    """

    def made(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        if name not in tables:
            raise ValueError(f"table: expected one of {', '.join(tables)}, got {name!r}")
        return f"{begin}\n{tables[name]()}\n\n{end}"

    filled, count = MARKED.subn(made, text)
    if not count == text.count(BEGIN) == text.count(END):
        raise ValueError(f"markers: expected an {END!r} for each {BEGIN!r}, got {text.count(END)}")
    return filled
