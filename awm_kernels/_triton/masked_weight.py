"""W = s · (m ⊙ θ) for a whole network in one launch; `mask_grad` is the same kernel on (dW, θ)."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._common import compute_type, device_of, narrow

BLOCK = 1024


@triton.jit
def _bisect(row_ptr, offset, low, high, span):
    """The largest row r in [low, high] with row_ptr[r] <= offset; span >= high - low."""
    while span > 0:
        middle = low + (high - low + 1) // 2
        right = tl.load(row_ptr + middle) <= offset
        low = tl.where(right, middle, low)
        high = tl.where(right, high, middle - 1)
        span = span // 2
    return low


@triton.jit
def load_row_scale(
    scale, row_ptr, rows, row_length, start, lane, valid, EQUAL: tl.constexpr, BLOCK: tl.constexpr
):
    """The scale of each element of the block at `start` of the flat physical order."""
    if EQUAL:
        # One 64-bit division a block; those of the lanes stay in 32 bits.
        first = start // row_length
        row = first + ((start - first * row_length).to(tl.int32) + lane) // row_length
    else:
        # A block rarely spans more than a few rows: find its ends, then search between them.
        nothing = tl.full((), 0, tl.int32)
        last = nothing + rows - 1
        first = _bisect(row_ptr, start, nothing, last, last)
        last = _bisect(row_ptr, start + BLOCK - 1, first, last, last - first)
        low = tl.zeros([BLOCK], tl.int32) + first
        high = tl.zeros([BLOCK], tl.int32) + last
        row = _bisect(row_ptr, start + lane, low, high, last - first)
    return tl.load(scale + row, mask=valid, other=0)


@triton.jit
def _masked_weight_kernel(
    theta,
    mask,
    scale,
    row_ptr,
    out,
    size,
    rows,
    row_length,
    COMPUTE: tl.constexpr,
    EQUAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    offset = start + lane
    valid = offset < size
    weight = tl.load(mask + offset, mask=valid, other=0).to(COMPUTE)
    weight *= tl.load(theta + offset, mask=valid, other=0).to(COMPUTE)
    if scale is not None:
        weight *= load_row_scale(
            scale, row_ptr, rows, row_length, start, lane, valid, EQUAL, BLOCK
        ).to(COMPUTE)
    tl.store(out + offset, narrow(weight, out.dtype.element_ty), mask=valid)


def rows_of(theta: Tensor, row_ptr: Tensor | None) -> tuple[int, int]:
    """(number of rows, elements of each); the latter is 0, and unused, with a `row_ptr`."""
    if row_ptr is not None:
        return row_ptr.numel() - 1, 0
    rows = theta.shape[0] if theta.dim() else 1
    return rows, theta.numel() // rows


def masked_weight_out(
    theta: Tensor, mask: Tensor, scale: Tensor | None, row_ptr: Tensor | None, out: Tensor
) -> None:
    """Write s · (m ⊙ θ), rounded once, to `out`; the three are dense with the same strides."""
    if theta.numel() == 0:
        return
    rows, row_length = rows_of(theta, row_ptr)
    with device_of(theta):
        _masked_weight_kernel[(triton.cdiv(theta.numel(), BLOCK),)](
            theta,
            mask,
            scale,
            row_ptr,
            out,
            theta.numel(),
            rows,
            row_length,
            COMPUTE=compute_type(theta.dtype),
            EQUAL=row_ptr is None,
            BLOCK=BLOCK,
        )


def mask_grad_out(
    theta: Tensor, grad_weight: Tensor, scale: Tensor | None, row_ptr: Tensor | None, out: Tensor
) -> None:
    """Write dm = dW ⊙ θ · s to `out`: the same product with dW in the mask's place."""
    masked_weight_out(theta, grad_weight, scale, row_ptr, out)
