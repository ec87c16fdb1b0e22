"""What a file says of a tensor, checked before any memory is taken for it."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOST_TENSORS = 50_000
LONGEST_NAME = 1000
MOST_DIMENSIONS = 32
# Elements; PyTorch counts them in 64 bits, with sign.
MOST_ELEMENTS = 1 << 60

NUMBERS = {
    name: getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16"),
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
        *("bool", "complex64", "complex128"),
    )
}


@dataclass(frozen=True)
class Planned:
    """A view of `numel` numbers that stand in a file.

    Attributes:
        storage: the name of the numbers.
        numel, dtype: how many there are, and of what type they were stored.
        offset, shape, stride: the view, in elements of `own`.
        own: the type of the tensor.
    """

    storage: str
    dtype: torch.dtype
    numel: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    own: torch.dtype

    @property
    def nbytes(self) -> int:
        """Of the storage."""
        return self.numel * self.dtype.itemsize

    @property
    def expanded(self) -> int:
        """Bytes of the tensor where no numbers are shared."""
        return math.prod(self.shape) * self.own.itemsize

    def view(self, memory: Tensor) -> Tensor:
        """The tensor, of the bytes of its storage."""
        empty = torch.empty(0, dtype=self.own)
        return empty.set_(memory.untyped_storage(), self.offset, self.shape, self.stride)


def plan(
    storage: Any, dtype: Any, numel: Any, offset: Any, shape: Any, stride: Any, own: Any
) -> Planned:
    """Check what a file says; ValueError where it can't be so."""
    if dtype not in NUMBERS or own not in NUMBERS:
        raise ValueError(f"a tensor of type {own!r} is none that is known")
    sizes = (numel, offset, *shape, *stride)
    if not isinstance(storage, str) or not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError("a tensor has a negative shape, stride or offset")
    if len(shape) != len(stride) or len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"a tensor has {len(shape)} dimensions and {len(stride)} strides")
    if max(sizes) > MOST_ELEMENTS or math.prod(shape) > MOST_ELEMENTS:
        raise ValueError(f"a tensor of shape {tuple(shape)} is too large")
    made = Planned(
        storage, NUMBERS[dtype], numel, offset, tuple(shape), tuple(stride), NUMBERS[own]
    )
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    end = 0 if 0 in shape else last + 1
    if end * made.own.itemsize > made.nbytes:
        raise ValueError(
            f"a tensor of shape {tuple(shape)} reaches beyond its storage, of {numel} numbers"
        )
    return made
