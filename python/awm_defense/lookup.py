"""Things by their names."""

from collections.abc import Mapping
from typing import TypeVar

Found = TypeVar("Found")


def look_up(argument: str, name: str, known: Mapping[str, Found]) -> Found:
    """The thing of that name; ValueError names the argument and lists those there are."""
    if not isinstance(name, str) or name not in known:
        got = repr(name) if isinstance(name, str) else type(name).__name__
        raise ValueError(f"{argument}: expected one of {', '.join(known)}, got {got}")
    return known[name]
