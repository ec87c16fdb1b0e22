"""Argument checks shared by the public functions: each error names argument, expected and got."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


# Of strides and the like, which sizes are computed from in 64 bits.
LARGEST = 2**31 - 1


def present(**values: Any) -> dict[str, Any]:
    """Those arguments that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def dense(**tensors: Any) -> None:
    """Each argument is a tensor with strides."""
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
        if value.layout != torch.strided:
            raise TypeError(f"{name}: expected a dense tensor, got {value.layout}")


def floating(**tensors: Any) -> None:
    """Each argument is a floating-point tensor."""
    dense(**tensors)
    for name, value in tensors.items():
        if value.dtype not in FLOATS:
            raise TypeError(f"{name}: expected a floating-point tensor, got {value.dtype}")


def writable(**tensors: Any) -> None:
    """Each argument, a tensor, has a place of its own for each element."""
    for name, value in tensors.items():
        sides = zip(value.shape, value.stride(), strict=True)
        if value.numel() and any(size > 1 and stride == 0 for size, stride in sides):
            raise ValueError(
                f"{name}: expected a tensor to write to, got an expanded one (strides "
                f"{tuple(value.stride())}); clone it"
            )
        if not torch.compiler.is_compiling() and value.is_neg():  # what Dynamo can't trace
            raise ValueError(
                f"{name}: expected a tensor to write to, got a negated view; resolve_neg() it"
            )


def reverse_only(op: str, **tensors: Any) -> None:
    """No argument carries a forward-mode derivative: `op` would drop it without a word."""
    for name, value in tensors.items():
        if forward_ad.unpack_dual(value).tangent is not None:
            raise NotImplementedError(
                f"{name}: {op} has no forward-mode derivative; use reverse mode, such as backward()"
            )


def exactly(kind: type, **values: Any) -> None:
    """Each argument is of this type, which is no tensor's."""
    for name, value in values.items():
        if not isinstance(value, kind):
            raise TypeError(f"{name}: expected {kind.__name__}, got {type(value).__name__}")


def same_shape(expected_name: str, expected: Tensor, **tensors: Tensor | None) -> None:
    """Each argument is None or has the shape of `expected`."""
    for name, value in tensors.items():
        if value is not None and value.shape != expected.shape:
            raise ValueError(
                f"{name}: expected {expected_name}'s shape {tuple(expected.shape)}, "
                f"got {tuple(value.shape)}"
            )


def same_device(expected_name: str, expected: Tensor, **tensors: Tensor | None) -> None:
    """Each argument is None or lives where `expected` does."""
    for name, value in tensors.items():
        if value is not None and value.device != expected.device:
            raise ValueError(
                f"{name}: expected {expected_name}'s device {expected.device}, got {value.device}"
            )


def shape(name: str, value: Tensor | None, expected: tuple[int, ...]) -> None:
    """`value` is None or has exactly this shape."""
    if value is not None and tuple(value.shape) != expected:
        raise ValueError(f"{name}: expected shape {expected}, got {tuple(value.shape)}")


def number(name: str, value: Any, low: float = -math.inf) -> float:
    """`value` as a float, where it is a number ≥ `low` that fits into one; NaN is refused too."""
    if isinstance(value, Tensor):
        dense(**{name: value})
    expected = "a number" if low == -math.inf else f"a number ≥ {low}"
    try:
        # Text has no __float__, though float() reads it.
        found = float(value) if hasattr(value, "__float__") else math.nan
        fits = found >= low
    except OverflowError:
        raise ValueError(f"{name}: expected {expected}, got one too large for float64") from None
    except (TypeError, ValueError, RuntimeError):  # a tensor of several numbers, say
        fits = False
    if not fits:
        got = value if isinstance(value, int | float) else type(value).__name__
        kind = ValueError if isinstance(value, int | float) else TypeError
        raise kind(f"{name}: expected {expected}, got {got}")
    return found


def integer(name: str, value: Any, low: int) -> int:
    """`value` as an int, from `low` to `LARGEST`."""
    try:
        found = operator.index(value)
    except (TypeError, RuntimeError):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
    if not low <= found <= LARGEST:
        got = found if abs(found) <= LARGEST else "one too large for 32 bits"
        raise ValueError(f"{name}: expected an integer ≥ {low}, got {got}")
    return found


def rows(theta: Tensor, scale: Tensor | None, row_ptr: Tensor | None) -> None:
    """`scale` has one value a row; `row_ptr` are offsets of rows in a flat `theta`."""
    if row_ptr is None:
        if scale is not None and theta.dim() == 0:
            raise ValueError("theta: expected at least 1 dimension with scale, got 0")
        shape("scale", scale, tuple(theta.shape[:1]))
        return
    if row_ptr.dtype != torch.int64:
        raise TypeError(f"row_ptr: expected torch.int64, got {row_ptr.dtype}")
    if theta.dim() != 1:
        raise ValueError(f"theta: expected 1 dimension with row_ptr, got {theta.dim()}")
    if row_ptr.dim() != 1 or row_ptr.numel() < 1:
        raise ValueError(f"row_ptr: expected shape (rows + 1,), got {tuple(row_ptr.shape)}")
    shape("scale", scale, (row_ptr.numel() - 1,))


def offsets(numel: int, row_ptr: Tensor | None) -> None:
    """`row_ptr` never decreases, from 0 to `numel`. For ops: it reads values, on the CPU alone.

    Elsewhere it would wait for the device.
    """
    if row_ptr is None or row_ptr.device.type != "cpu":
        return
    if row_ptr[0] != 0 or row_ptr[-1] != numel or (row_ptr.diff() < 0).any():
        raise ValueError(f"row_ptr: expected ascending offsets from 0 to {numel}")
