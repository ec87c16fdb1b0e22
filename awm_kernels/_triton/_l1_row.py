"""What the ops on the L1 ball share: one program steps a row, then rescales or projects it.

The projection's threshold τ solves Σ max(|x| − τ, 0) = r. The left side is convex and falls with τ,
so Newton's method from a τ too small climbs to the answer and needs no sorting and no safeguard.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._common import compute_type, device_of, divide, narrow

MAX_BLOCK = 4096


@triton.jit
def _load_moved(delta, grad, rate, offset, length, COMPUTE: tl.constexpr):
    """Elements of Δ + rate·grad, recomputed in every pass, so never rounded to Δ's dtype."""
    valid = offset < length
    value = tl.load(delta + offset, mask=valid, other=0).to(COMPUTE)
    if grad is not None:
        value += rate * tl.load(grad + offset, mask=valid, other=0).to(COMPUTE)
    return value


@triton.jit
def _threshold(
    delta, grad, rate, norm, peak, limit, length, COMPUTE: tl.constexpr, BLOCK: tl.constexpr
):
    """Newton's method on τ; for a row inside the ball it stops at once."""
    lane = tl.arange(0, BLOCK)
    elements = (tl.full((), 0, tl.int32) + length).to(COMPUTE)
    by_mean = divide(norm - limit, elements, COMPUTE)
    by_peak = peak - limit
    # Both are at most τ. A NaN in the row is in its norm, and goes through to every element.
    start = tl.where(by_peak > by_mean, by_peak, by_mean)
    previous = tl.full((), -1, COMPUTE)
    current = tl.where(norm <= limit, previous, start)
    while current > previous:
        previous = current
        total = tl.zeros([BLOCK], COMPUTE)
        count = tl.zeros([BLOCK], COMPUTE)
        for first in range(0, length, BLOCK):
            value = _load_moved(delta, grad, rate, first + lane, length, COMPUTE)
            excess = tl.abs(value) - previous
            total += tl.where(excess > 0, excess, 0)
            count += tl.where(excess > 0, 1.0, 0.0).to(COMPUTE)
        # No active element (r = 0, τ = max|x|) makes this NaN or infinite below, which ends it.
        current = previous + divide(tl.sum(total) - limit, tl.sum(count), COMPUTE)
    return tl.where(start == start, previous, start)


@triton.jit
def l1_row_kernel(
    delta,
    grad,
    radius,
    length,
    lr: tl.float64,
    RESCALE: tl.constexpr,
    PROJECT: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Rows of Δ ← Δ + lr·grad (where there is a grad), then rescaled or projected, or neither."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    rate = tl.full((), lr, COMPUTE)
    delta += row * length
    if grad is not None:
        grad += row * length
    if RESCALE or PROJECT:
        limit = tl.load(radius + row).to(COMPUTE)
        total = tl.zeros([BLOCK], COMPUTE)
        peaks = tl.zeros([BLOCK], COMPUTE)
        for first in range(0, length, BLOCK):
            size = tl.abs(_load_moved(delta, grad, rate, first + lane, length, COMPUTE))
            total += size
            peaks = tl.maximum(peaks, size)
        norm = tl.sum(total)
        factor = divide(limit, norm, COMPUTE)
        if PROJECT:
            threshold = _threshold(
                delta, grad, rate, norm, tl.max(peaks), limit, length, COMPUTE, BLOCK
            )
    for first in range(0, length, BLOCK):
        offset = first + lane
        value = _load_moved(delta, grad, rate, offset, length, COMPUTE)
        if RESCALE:
            value = tl.where(norm > limit, value * factor, value)
        if PROJECT:
            size = tl.abs(value) - threshold
            size = tl.where(size < 0, 0, size)
            value = tl.where(norm <= limit, value, tl.where(value < 0, -size, size))
        tl.store(delta + offset, narrow(value, delta.dtype.element_ty), mask=offset < length)


def launch(
    delta: Tensor, grad: Tensor | None, radius: Tensor, lr: float, rescale: bool, project: bool
) -> None:
    """Run the kernel over the rows of `delta` (rows, n), contiguous."""
    if delta.numel() == 0:
        return
    rows, length = delta.shape
    block = min(triton.next_power_of_2(length), MAX_BLOCK)
    with device_of(delta):
        l1_row_kernel[(rows,)](
            delta,
            grad,
            radius,
            length,
            float(lr),
            RESCALE=rescale,
            PROJECT=project,
            COMPUTE=compute_type(delta.dtype),
            BLOCK=block,
            num_warps=8 if block == MAX_BLOCK else 4,
        )
