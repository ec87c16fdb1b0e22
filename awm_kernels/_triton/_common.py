"""What the kernels share: arithmetic that is rounded as PyTorch rounds it, and launch details."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

# The interpreter runs on CPU tensors and is chosen when a kernel is decorated.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


def compute_type(dtype: torch.dtype) -> tl.dtype:
    """The type that arithmetic on tensors stored as `dtype` is done in."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Makes `tensor`'s GPU the current one, which is where Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


@triton.jit
def narrow(value, DTYPE: tl.constexpr):
    """`value` rounded to the nearest DTYPE; the interpreter by itself cuts bfloat16 off."""
    if INTERPRETED and DTYPE.is_bf16():
        value = value.to(tl.float32)
        bits = value.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        value = tl.where(value == value, bits.to(tl.float32, bitcast=True), value)
    return value.to(DTYPE)


@triton.jit
def multiply_add(left, right, total):
    """total + left @ right, never in tf32; the interpreter's product knows no bfloat16."""
    if INTERPRETED:
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, total, input_precision="ieee")


@triton.jit
def clip(value, low, high):
    """As torch.clamp: NaN stays NaN, which tl.clamp does not promise."""
    return tl.where(value < low, low, tl.where(value > high, high, value))


@triton.jit
def divide(numerator, denominator, COMPUTE: tl.constexpr):
    """Correctly rounded: Triton's own `/` is approximate in float32."""
    if COMPUTE.is_fp64():
        return numerator / denominator
    else:
        return tl.div_rn(numerator, denominator)


@triton.jit
def square_root(value, COMPUTE: tl.constexpr):
    """Correctly rounded: tl.sqrt is approximate in float32."""
    if COMPUTE.is_fp64():
        return tl.sqrt(value)
    else:
        return tl.sqrt_rn(value)
