"""In which type and precision products are made."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

STORED = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


class Arithmetic(NamedTuple):
    """Operands are rounded to `stored` and multiplied in `precision`, added up in float32."""

    stored: tl.dtype
    precision: str

    @property
    def name(self) -> str:
        if self.stored != tl.float32:
            return "half"
        return "tf32" if self.precision == "tf32" else "float"


def arithmetic(tf32: bool, **tensors: Tensor) -> Arithmetic:
    """That of activations, which must have one dtype.

    Raises:
        TypeError: naming the tensors, what was expected and what came.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in STORED:
            raise TypeError(
                f"masked_conv (triton): expected {name} in float32, bfloat16 or float16, got "
                f"{tensor.dtype}; the reference backend takes every dtype"
            )
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) != 1:
        raise TypeError(
            f"masked_conv (triton): expected {' and '.join(tensors)} of one dtype, "
            f"got {[tensor.dtype for tensor in tensors.values()]}"
        )
    return Arithmetic(STORED[dtypes.pop()], "tf32" if tf32 else "ieee")
