"""Things by their names."""

from collections.abc import Mapping
from typing import TypeVar

Found = TypeVar("Found")


def look_up(argument: str, name: str, known: Mapping[str, Found]) -> Found:
    """The thing of that name; ValueError names the argument and lists those there are."""
    if name not in known:
        raise ValueError(f"{argument}: expected one of {', '.join(known)}, got {name!r}")
    return known[name]
