"""What values from a file may be. A check takes a name and a value and returns, or says why not."""

from collections.abc import Callable, Mapping
from typing import Any

from awm_defense.files.text import shown

Check = Callable[[str, Any], None]

LONGEST = 1000


def whole(low: int, high: int) -> Check:
    """A whole number from `low` to `high`; true and 1.0 are none."""

    def check(name: str, value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            _refuse(name, f"a whole number from {low} to {high}", value)

    return check


def number(low: float, high: float) -> Check:
    """A number from `low` to `high`; NaN is none."""

    def check(name: str, value: Any) -> None:
        real = isinstance(value, int | float) and not isinstance(value, bool)
        if not real or not low <= value <= high:
            _refuse(name, f"a number from {low:g} to {high:g}", value)

    return check


def text(*known: str) -> Check:
    """Text of at most `LONGEST` characters, or one of the words that are given."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, str) or len(value) > LONGEST:
            _refuse(name, "text", value)
        elif known and value not in known:
            _refuse(name, f"one of {', '.join(known)}", value)

    return check


def truth(name: str, value: Any) -> None:
    """True or false."""
    if not isinstance(value, bool):
        _refuse(name, "true or false", value)


def scalar(name: str, value: Any) -> None:
    """A number, text, or true or false."""
    if not isinstance(value, int | float | str):
        _refuse(name, "a number or text", value)


def optional(check: Check) -> Check:
    """Null, or what `check` allows."""
    return lambda name, value: None if value is None else check(name, value)


def listing(check: Check, *, least: int = 0) -> Check:
    """A list of at least so many values, each as `check` allows it."""

    def check_all(name: str, value: Any) -> None:
        if not isinstance(value, list):
            _refuse(name, "a list", value)
        if len(value) < least:
            raise ValueError(f"{name}: expected at least {least} values, got {len(value)}")
        for index, inner in enumerate(value):
            check(f"{name}[{index}]", inner)

    return check_all


def mapping(check: Check, required: tuple[str, ...] = ()) -> Check:
    """An object of any names, each value as `check` allows it."""

    def check_all(name: str, value: Any) -> None:
        _expect_object(name, value)
        _expect_names(name, value, required)
        for key, inner in value.items():
            check(f"{name}.{shown(key)}" if name else shown(key), inner)

    return check_all


def record(
    fields: Mapping[str, Check], required: tuple[str, ...] = (), *, closed: bool = False
) -> Check:
    """An object; unless it is closed, fields that are not named here may hold anything."""

    def check(name: str, value: Any) -> None:
        _expect_object(name, value)
        for key in value if closed else ():
            if key not in fields:
                raise ValueError(f"{name}: expected {', '.join(fields)}, got {shown(key)}")
        _expect_names(name, value, required)
        for key, inner in fields.items():
            if key in value:
                inner(f"{name}.{key}" if name else key, value[key])

    return check


def _expect_object(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        _refuse(name, "an object", value)


def _expect_names(name: str, value: Any, required: tuple[str, ...]) -> None:
    for key in required:
        if key not in value:
            raise ValueError(f"{name}: lacks {key!r}" if name else f"lacks {key!r}")


def _refuse(name: str, expected: str, value: Any) -> None:
    raise ValueError(f"{name}: expected {expected}, got {shown(repr(value))}")
