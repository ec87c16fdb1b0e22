"""JSON files: of bounded size and depth, without doubled names, numbers finite."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from awm_defense.files.door import MIB, read_file
from awm_defense.files.text import PATH, sentence, shown

LIMIT = 4 * MIB
# Of containers and what is in them. One in Python takes a hundred times its bytes in a file.
VALUES = 2_000_000
DEPTH = 20
# Digits of a whole number; none that is meant has more.
DIGITS = 20


def read_json(path: Path, *, finite: bool = True, limit: int = LIMIT) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file, in UTF-8.
        finite: refuse NaN and infinite numbers.
        limit: bytes that the file may have.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not a JSON object, or not one that could be meant.
    """
    content = read_file(path, limit)
    try:
        return parse_object(content, finite=finite)
    except ValueError as error:
        raise ValueError(f"{shown(path, PATH)}: {sentence(error)}") from error


def parse_object(
    content: bytes | bytearray, *, finite: bool = True, depth: int = DEPTH
) -> dict[str, Any]:
    """The object that JSON text in UTF-8 holds; ValueError says what is wrong with it."""

    def real(text: str) -> float:
        value = float(text)
        if finite and not math.isfinite(value):
            raise ValueError(f"expected finite numbers, got {shown(text)}")
        return value

    # Each value but the first comes after one of these; in text they count, too.
    marks = sum(content.count(mark) for mark in (b",", b"[", b"{"))
    if marks > VALUES:
        raise ValueError(f"expected JSON of at most {VALUES} values, got some {marks}")
    try:
        found = json.loads(
            content.decode("utf-8"),
            parse_float=real,
            parse_int=_whole,
            parse_constant=real,
            object_pairs_hook=_object,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON, got {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError("expected JSON, got text that is not UTF-8") from error
    except RecursionError:
        found = None
        deep = True
    else:
        deep = _is_deeper(found, depth)
    if deep:
        raise ValueError(f"expected JSON of at most {depth} levels")
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, got a {type(found).__name__}")
    return found


def _whole(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"expected whole numbers of at most {DIGITS} digits, got {len(text)}")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"expected each name once, got {shown(twice)} again")
    return found


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether containers are nested more than `depth` times; level by level, not by recursion."""
    level = [value]
    for _ in range(depth):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return any(isinstance(value, dict | list) for value in level)
