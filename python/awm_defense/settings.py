"""Hyper-parameters as data: named, frozen, and changed from text as command lines give it."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

# No count is larger: a loop over as many would never end.
MOST = 10**9
# Images a step, where as many are drawn as are asked for.
MOST_DRAWN = 10_000
# float32 holds little more. NaN is not smaller either.
LARGEST = 1e38
# Bounds, which may be infinite.
UNBOUNDED = ("tau",)
# What PyTorch takes as a seed.
SEEDS = (-(2**63), 2**64 - 1)


@dataclass(frozen=True)
class Settings:
    """The hyper-parameters of a defense; each defense adds its own fields."""

    least: ClassVar[Mapping[str, float]] = {}
    """What numbers are at least, by field; integers are counts."""
    name: str

    def __post_init__(self) -> None:
        check_fields(self, self.least)

    def for_images(self, *, flip: bool, synthetic: bool = False) -> Self:
        """A copy for images such as those at hand.

        Args:
            flip: whether mirrored they still show their class; else none is mirrored.
            synthetic: whether they were made of the network. No step follows the natural gradient
                then: with them a published network kept ten times as much of its backdoor
                (docs/results.md, Other amounts of images).
        """
        changes: dict[str, object] = {}
        if not flip and getattr(self, "flip", False):
            changes["flip"] = False
        if synthetic and getattr(self, "natural_step", None) is not None:
            changes["natural_step"] = None
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def with_options(self, options: Mapping[str, object]) -> Self:
        """A copy with fields replaced from values or text, as in `--set tau=100`.

        Raises:
            TypeError: `options` is no mapping.
            ValueError: no such field, or a value that the field can't have.
        """
        if not isinstance(options, Mapping):
            raise TypeError(f"options: expected names and values, got {type(options).__name__}")
        hints = typing.get_type_hints(type(self))
        fields = [field.name for field in dataclasses.fields(self) if field.name != "name"]
        changes: dict[str, object] = {}
        for key, value in options.items():
            if key not in fields:
                near = difflib.get_close_matches(str(key), fields, n=1)
                meant = f" (did you mean {near[0]!r}?)" if near else ""
                raise ValueError(
                    f"recipe option: expected one of {', '.join(fields)}, got {key!r}{meant}"
                )
            changes[key] = _parse(key, hints[key], str(value))
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


def _parse(key: str, hint: object, text: str) -> object:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in kinds and text.lower() == "none":
        return None
    kind = kinds[0]
    if typing.get_origin(kind) is Literal:
        if text not in typing.get_args(kind):
            raise ValueError(f"{key}: expected one of {typing.get_args(kind)}, got {text!r}")
        return text
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{key}: expected true or false, got {text!r}")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:  # also an integer of thousands of digits
        expected = {int: "an integer", float: "a number"}[kind]
        raise ValueError(f"{key}: expected {expected}, got {text!r}") from None


def check_fields(values: Any, least: Mapping[str, float]) -> None:
    """Check that fields of a dataclass have their types, and numbers sane sizes.

    Numbers of other libraries become Python's own.

    Args:
        values: the dataclass.
        least: what numbers are at least, by field.

    Raises:
        TypeError, ValueError: naming the field, what was expected and what came.
    """
    hints = typing.get_type_hints(type(values))
    for field in dataclasses.fields(values):
        value, hint = getattr(values, field.name), hints[field.name]
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if value is not None or type(None) not in kinds:
            checked = check_value(field.name, kinds[0], value, least.get(field.name, -math.inf))
            if checked is not value:
                object.__setattr__(values, field.name, checked)  # it is frozen


def check_value(key: str, kind: Any, value: Any, least: float) -> Any:
    """`check_fields` of one field, or of an argument; `kind` is its type.

    Returns:
        The value. A number of another library is Python's own, which all that PyTorch has takes.
    """
    if typing.get_origin(kind) is Literal:
        if not isinstance(value, str) or value not in typing.get_args(kind):
            got = repr(value) if isinstance(value, str) else type(value).__name__
            raise ValueError(f"{key}: expected one of {typing.get_args(kind)}, got {got}")
    elif kind in (int, float):
        what = "an integer" if kind is int else "a number"
        if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
            raise TypeError(f"{key}: expected {what}, got {type(value).__name__}")
        number: Any = value
        most = MOST if kind is int else LARGEST
        # A seed has bounds of its own.
        unbounded = key == "seed" or (key in UNBOUNDED and number == math.inf)
        if not (unbounded or abs(number) <= most):
            got = "more" if kind is int else str(number)
            raise ValueError(f"{key}: expected {what} of at most {most:g}, got {got}")
        if number < least:
            raise ValueError(f"{key}: expected {what} ≥ {least:g}, got {number}")
        # PyTorch takes no integer of more than 64 bits as a number.
        fits = isinstance(number, int | float) and (unbounded or abs(number) <= MOST)
        return number if fits else kind(number)
    elif kind in (bool, str) and not isinstance(value, kind):
        raise TypeError(f"{key}: expected {kind.__name__}, got {type(value).__name__}")
    return value


def check_drawn(size: int, images: int) -> None:
    """Raise ValueError where so many of the images are drawn a step that memory would run out."""
    most = max(images, MOST_DRAWN)
    if size > most:
        raise ValueError(f"batch_size: expected at most {most} images a step, got {size}")


def check_seed(seed: Any) -> int:
    """`seed`, a whole number that PyTorch takes as one.

    Raises:
        TypeError, ValueError: it is none.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"seed: expected a whole number, got {type(seed).__name__}")
    whole = int(seed)
    if not SEEDS[0] <= whole <= SEEDS[1]:
        raise ValueError("seed: expected a whole number from -2^63 to 2^64 - 1")
    return whole
