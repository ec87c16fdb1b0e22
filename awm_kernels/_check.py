"""Argument checks shared by the public functions: each error names argument, expected and got."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def floating(**tensors: Tensor | None) -> None:
    """Each argument is None or a floating-point tensor."""
    for name, value in tensors.items():
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
        if value.dtype not in FLOATS:
            raise TypeError(f"{name}: expected a floating-point tensor, got {value.dtype}")


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


def at_least(name: str, value: float, low: float) -> None:
    """`value` ≥ `low`; NaN is refused too."""
    if not value >= low:
        raise ValueError(f"{name}: expected a number ≥ {low}, got {value}")


def rows(theta: Tensor, scale: Tensor | None, row_ptr: Tensor | None) -> None:
    """`scale` has one value a row; `row_ptr` are offsets of rows in a flat `theta`."""
    if row_ptr is None:
        if scale is not None:
            shape("scale", scale, (theta.shape[0] if theta.dim() else 0,))
        return
    if row_ptr.dtype != torch.int64:
        raise TypeError(f"row_ptr: expected torch.int64, got {row_ptr.dtype}")
    if theta.dim() != 1:
        raise ValueError(f"theta: expected 1 dimension with row_ptr, got {theta.dim()}")
    if row_ptr.dim() != 1 or row_ptr.numel() < 1:
        raise ValueError(f"row_ptr: expected shape (rows + 1,), got {tuple(row_ptr.shape)}")
    shape("scale", scale, (row_ptr.numel() - 1,))
