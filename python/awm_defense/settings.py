"""Hyper-parameters as data: named, frozen, and changed from text as command lines give it."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

# No count is larger: a loop over as many would never end.
MOST = 10**9
# float32 holds little more. NaN is not smaller either.
LARGEST = 1e38
# Bounds, which may be infinite.
UNBOUNDED = ("tau",)


@dataclass(frozen=True)
class Settings:
    """The hyper-parameters of a defense; each defense adds its own fields."""

    name: str

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
            ValueError: no such field, or a value that the field can't have.
        """
        hints = typing.get_type_hints(type(self))
        fields = [field.name for field in dataclasses.fields(self) if field.name != "name"]
        changes: dict[str, object] = {}
        for key, value in options.items():
            if key not in fields:
                near = difflib.get_close_matches(key, fields, n=1)
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
        value = kind(text)
    except ValueError:  # also an integer of thousands of digits
        expected = {int: "an integer", float: "a number"}[kind]
        raise ValueError(f"{key}: expected {expected}, got {text!r}") from None
    if kind is int and abs(value) > MOST:
        raise ValueError(f"{key}: expected an integer of at most {MOST}, got {text}")
    infinite = math.isinf(value) and key in UNBOUNDED
    if kind is float and not (abs(value) <= LARGEST or infinite):
        raise ValueError(f"{key}: expected a number of at most {LARGEST:g}, got {text!r}")
    return value
