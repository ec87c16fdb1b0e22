"""Which number each class has, from what people call classes."""

import re
from collections.abc import Collection, Sequence

from awm_defense.files.manifest import MOST_CLASSES
from awm_defense.files.text import PATH, shown
from awm_defense.inputs.images import UNKNOWN

# As tables of numbers are often written: 3, +3, 3.0.
NUMBER = re.compile(r"([+-]?[0-9]+)(\.[0-9]+)?")


def number_classes(where: str, words: Collection[str]) -> dict[str, int]:
    """The number of each class by what it is called.

    Whole numbers stay as they are; words are numbered in their order. No word at all, or −1, is of
    no class.

    Args:
        where: the file or folder, for the error.
        words: what the classes are called.

    Raises:
        ValueError: there are numbers and words, other numbers than whole ones, or too large ones.
    """
    named = sorted({word for word in words if word not in ("", str(UNKNOWN))})
    numbers = {word: _number(where, word) for word in named if NUMBER.fullmatch(word)}
    others = [word for word in named if word not in numbers]
    if numbers and others:
        raise ValueError(
            f"{where}: expected classes that are all numbers or all words, got "
            f"{shown(next(iter(numbers)))} and {shown(others[0])}"
        )
    if len(named) > MOST_CLASSES:
        raise ValueError(
            f"{where}: expected classes from 0 to {MOST_CLASSES - 1}, got {len(named)}"
        )
    found = numbers or {word: number for number, word in enumerate(named)}
    return {word: found.get(word, UNKNOWN) for word in words}


def number_folders(where: str, names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """`number_classes` of folders, of which no two are of one class; and notes on it."""
    found = number_classes(where, names)
    by_number: dict[int, str] = {}
    for name, number in found.items():
        if number in by_number:
            raise ValueError(
                f"{where}: expected a class a folder, got {shown(by_number[number])} and "
                f"{shown(name)}, which are one number"
            )
        by_number[number] = name
    return found, say_numbers(found)


def say_numbers(found: dict[str, int]) -> list[str]:
    """A note on what is not plain in numbers of classes, if anything is."""
    numbers = sorted(set(found.values()) - {UNKNOWN})
    if any(not NUMBER.fullmatch(word) for word in found if word):
        names = {number: word for word, number in found.items()}
        listed = ", ".join(f"{number} {shown(names[number])}" for number in numbers)
        return [f"classes are numbered in the order of their names: {shown(listed, PATH)}"]
    if numbers and numbers != list(range(len(numbers))):
        return [
            f"classes have the numbers that they are called by, {len(numbers)} from {numbers[0]} "
            f"to {numbers[-1]}"
        ]
    return []


def _number(where: str, word: str) -> int:
    match = NUMBER.fullmatch(word)
    assert match is not None
    whole, part = match.groups()
    # A number of thousands of digits is none that Python reads.
    if (part or "").strip(".0") or len(whole) > 9 or not UNKNOWN <= int(whole) < MOST_CLASSES:
        raise ValueError(
            f"{where}: expected classes from 0 to {MOST_CLASSES - 1}, or {UNKNOWN} for none, "
            f"got {shown(word)}"
        )
    return int(whole)
