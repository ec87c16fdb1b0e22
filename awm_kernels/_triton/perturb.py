"""clip(x + Δ) and its gradients, on (N, n) views in physical order."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._common import clip, compute_type, device_of, narrow

ROWS = 8
COLUMNS = 256
# The backward pass sums over N within a program: narrower tiles leave more programs.
BACKWARD_ROWS = 32
BACKWARD_COLUMNS = 64


@triton.jit
def _perturb_kernel(
    x,
    delta,
    out,
    batch,
    length,
    low: tl.float64,
    high: tl.float64,
    ONE_IMAGE: tl.constexpr,
    COMPUTE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    blocks = tl.cdiv(length, COLUMNS)
    row = (tl.program_id(0) // blocks * ROWS + tl.arange(0, ROWS))[:, None]
    column = (tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    valid = (row < batch) & (column < length)
    offset = row.to(tl.int64) * length + column
    value = tl.load(x + offset, mask=valid, other=0).to(COMPUTE)
    if ONE_IMAGE:
        value += tl.load(delta + column, mask=column < length, other=0).to(COMPUTE)
    else:
        value += tl.load(delta + offset, mask=valid, other=0).to(COMPUTE)
    value = clip(value, tl.full((), low, COMPUTE), tl.full((), high, COMPUTE))
    tl.store(out + offset, narrow(value, out.dtype.element_ty), mask=valid)


@triton.jit
def _perturb_backward_kernel(
    grad,
    x,
    delta,
    grad_x,
    grad_delta,
    batch,
    length,
    row_tiles,
    low: tl.float64,
    high: tl.float64,
    ONE_IMAGE: tl.constexpr,
    COMPUTE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A program takes every `row_tiles`-th tile of rows: all where Δ's gradient is a sum."""
    blocks = tl.cdiv(length, COLUMNS)
    lane = tl.arange(0, ROWS)[:, None]
    column = (tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    least = tl.full((), low, COMPUTE)
    most = tl.full((), high, COMPUTE)
    if ONE_IMAGE:
        added = tl.load(delta + column, mask=column < length, other=0).to(COMPUTE)
    total = tl.zeros([ROWS, COLUMNS], COMPUTE)
    for first in range(tl.program_id(0) // blocks * ROWS, batch, row_tiles * ROWS):
        row = first + lane
        valid = (row < batch) & (column < length)
        offset = row.to(tl.int64) * length + column
        if not ONE_IMAGE:
            added = tl.load(delta + offset, mask=valid, other=0).to(COMPUTE)
        value = tl.load(x + offset, mask=valid, other=0).to(COMPUTE) + added
        passed = tl.load(grad + offset, mask=valid, other=0).to(COMPUTE)
        passed = tl.where((value >= least) & (value <= most), passed, 0)
        if grad_x is not None:
            tl.store(grad_x + offset, narrow(passed, grad_x.dtype.element_ty), mask=valid)
        if grad_delta is not None:
            if ONE_IMAGE:
                total += passed
            else:
                tl.store(
                    grad_delta + offset, narrow(passed, grad_delta.dtype.element_ty), mask=valid
                )
    if ONE_IMAGE and grad_delta is not None:
        summed = narrow(tl.sum(total, axis=0)[None, :], grad_delta.dtype.element_ty)
        tl.store(grad_delta + column, summed, mask=column < length)


def perturb_out(x: Tensor, delta: Tensor, low: float, high: float, out: Tensor) -> None:
    """Write clip(x + Δ, low, high) to `out` (N, n); `delta` is (1, n) or (N, n)."""
    if x.numel() == 0:
        return
    batch, length = x.shape
    grid = (triton.cdiv(batch, ROWS) * triton.cdiv(length, COLUMNS),)
    with device_of(x):
        _perturb_kernel[grid](
            x,
            delta,
            out,
            batch,
            length,
            float(low),
            float(high),
            ONE_IMAGE=delta.shape[0] == 1,
            COMPUTE=compute_type(x.dtype),
            ROWS=ROWS,
            COLUMNS=COLUMNS,
        )


def perturb_backward_out(
    grad: Tensor,
    x: Tensor,
    delta: Tensor,
    low: float,
    high: float,
    grad_x: Tensor | None,
    grad_delta: Tensor | None,
) -> None:
    """Write the gradients asked for; `grad_delta` (1, n) is summed over N, in a fixed order."""
    batch, length = x.shape
    if x.numel() == 0:
        if grad_delta is not None:
            grad_delta.zero_()
        return
    one_image = delta.shape[0] == 1
    sums = one_image and grad_delta is not None
    row_tiles = 1 if sums else triton.cdiv(batch, BACKWARD_ROWS)
    with device_of(x):
        _perturb_backward_kernel[(row_tiles * triton.cdiv(length, BACKWARD_COLUMNS),)](
            grad,
            x,
            delta,
            grad_x,
            grad_delta,
            batch,
            length,
            row_tiles,
            float(low),
            float(high),
            ONE_IMAGE=one_image,
            COMPUTE=compute_type(x.dtype),
            ROWS=BACKWARD_ROWS,
            COLUMNS=BACKWARD_COLUMNS,
        )
