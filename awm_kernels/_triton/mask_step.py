"""One optimiser step on the masks of a whole network, in one pass over memory."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import clip, compute_type, device_of, divide, narrow, square_root
from .masked_weight import load_row_scale, rows_of

BLOCK = 1024


@triton.jit
def _power(base, exponent):
    """base ** exponent (a non-negative integer) by squaring, in base's type."""
    result = base * 0 + 1
    while exponent > 0:
        result = tl.where(exponent % 2 == 1, result * base, result)
        base = base * base
        exponent = exponent // 2
    return result


@triton.jit
def _grad_norm_kernel(
    grad_weight,
    theta,
    partial,
    scale,
    row_ptr,
    size,
    rows,
    row_length,
    COMPUTE: tl.constexpr,
    WEIGHT_COMPUTE: tl.constexpr,
    EQUAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The sum of the squares of each block's finite mask gradients."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    offset = start + lane
    valid = offset < size
    grad = tl.load(grad_weight + offset, mask=valid, other=0).to(WEIGHT_COMPUTE)
    grad *= tl.load(theta + offset, mask=valid, other=0).to(WEIGHT_COMPUTE)
    if scale is not None:
        grad *= load_row_scale(
            scale, row_ptr, rows, row_length, start, lane, valid, EQUAL, BLOCK
        ).to(WEIGHT_COMPUTE)
    grad = grad.to(COMPUTE)
    grad = tl.where(valid & (tl.abs(grad) < float("inf")), grad, 0).to(tl.float64)
    tl.store(partial + tl.program_id(0), tl.sum(grad * grad))


@triton.jit
def _mask_step_kernel(
    mask,
    grad_weight,
    theta,
    exp_avg,
    exp_avg_sq,
    step,
    weight_out,
    partial,
    squares,
    scale,
    row_ptr,
    size,
    rows,
    row_length,
    lr,
    beta1: tl.float64,
    beta2: tl.float64,
    eps: tl.float64,
    grad_clip: tl.float64,
    l1: tl.float64,
    grad_norm_clip: tl.float64,
    PROXIMAL: tl.constexpr,
    COMPUTE: tl.constexpr,
    WEIGHT_COMPUTE: tl.constexpr,
    EQUAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Scalars stay in float64 until they meet a tensor: 1 - beta would lose four digits in float32.
    rate = tl.load(lr)
    decay1 = tl.full((), beta1, tl.float64)
    decay2 = tl.full((), beta2, tl.float64)
    limit = tl.full((), grad_clip, COMPUTE)
    penalty = tl.full((), l1, tl.float64)

    if exp_avg_sq is not None:
        count = tl.load(step)
        correction1 = (1 - _power(decay1, count)).to(COMPUTE)
        correction2 = tl.sqrt(1 - _power(decay2, count)).to(COMPUTE)

    start = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    offset = start + lane
    valid = offset < size
    weight = tl.load(theta + offset, mask=valid, other=0).to(WEIGHT_COMPUTE)
    old = tl.load(mask + offset, mask=valid, other=0).to(COMPUTE)
    grad = tl.load(grad_weight + offset, mask=valid, other=0).to(WEIGHT_COMPUTE) * weight
    if scale is not None:
        factor = load_row_scale(
            scale, row_ptr, rows, row_length, start, lane, valid, EQUAL, BLOCK
        ).to(WEIGHT_COMPUTE)
        grad *= factor
    grad = grad.to(COMPUTE)

    finite = tl.abs(grad) < float("inf")
    change = valid & finite
    if squares is not None:
        norm = tl.sqrt(tl.load(squares)) + 1e-6
        factor_of_norm = tl.full((), grad_norm_clip, tl.float64) / norm
        grad *= tl.where(factor_of_norm < 1, factor_of_norm, 1.0).to(COMPUTE)
    grad = clip(grad, -limit, limit)
    if not PROXIMAL:
        grad += penalty.to(COMPUTE)

    if exp_avg_sq is not None:
        first = tl.load(exp_avg + offset, mask=valid, other=0)
        second = tl.load(exp_avg_sq + offset, mask=valid, other=0)
        first += (1 - decay1).to(COMPUTE) * (grad - first)
        second = second * decay2.to(COMPUTE) + (1 - decay2).to(COMPUTE) * grad * grad
        tl.store(exp_avg + offset, first, mask=change)
        tl.store(exp_avg_sq + offset, second, mask=change)
        size_of_grad = divide(square_root(second, COMPUTE), correction2, COMPUTE)
        size_of_grad += tl.full((), eps, COMPUTE)
        update = divide(rate.to(COMPUTE), correction1, COMPUTE) * first
        update = divide(update, size_of_grad, COMPUTE)
    elif exp_avg is not None:
        first = tl.load(exp_avg + offset, mask=valid, other=0)
        first = decay1.to(COMPUTE) * first + grad
        tl.store(exp_avg + offset, first, mask=change)
        update = rate.to(COMPUTE) * first
    else:
        update = rate.to(COMPUTE) * grad

    value = old - update
    if PROXIMAL:
        value -= (rate * penalty).to(COMPUTE)
    value = narrow(tl.where(finite, clip(value, 0.0, 1.0), old), mask.dtype.element_ty)
    tl.store(mask + offset, value, mask=valid)

    if weight_out is not None:
        weight = value.to(WEIGHT_COMPUTE) * weight
        if scale is not None:
            weight *= factor
        tl.store(weight_out + offset, narrow(weight, weight_out.dtype.element_ty), mask=valid)

    partial += 2 * tl.program_id(0)
    tl.store(partial, tl.sum(tl.where(valid, value, 0).to(tl.float64)))
    tl.store(partial + 1, tl.sum((valid & (finite == 0)).to(tl.int32)).to(tl.float64))


def mask_step_(
    mask: Tensor,
    grad_weight: Tensor,
    theta: Tensor,
    exp_avg: Tensor | None,
    exp_avg_sq: Tensor | None,
    step: Tensor,
    weight_out: Tensor | None,
    stats: Tensor,
    scale: Tensor | None,
    row_ptr: Tensor | None,
    lr: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    grad_clip: float,
    l1: float,
    grad_norm_clip: float,
    proximal: bool,
) -> None:
    """`_reference.mask_step_` on dense tensors that share one physical order; no host sync."""
    if mask.numel() == 0:
        stats.zero_()
        return
    rows, row_length = rows_of(theta, row_ptr)
    blocks = triton.cdiv(mask.numel(), BLOCK)
    # Sums of blocks rather than atomics: the same bits on every run.
    partial = torch.empty((blocks, 2), dtype=torch.float64, device=mask.device)
    squares = None
    with device_of(mask):
        if grad_norm_clip < math.inf:
            square = torch.empty(blocks, dtype=torch.float64, device=mask.device)
            _grad_norm_kernel[(blocks,)](
                grad_weight,
                theta,
                square,
                scale,
                row_ptr,
                mask.numel(),
                rows,
                row_length,
                COMPUTE=compute_type(mask.dtype),
                WEIGHT_COMPUTE=compute_type(theta.dtype),
                EQUAL=row_ptr is None,
                BLOCK=BLOCK,
            )
            squares = square.sum()
        _mask_step_kernel[(blocks,)](
            mask,
            grad_weight,
            theta,
            exp_avg,
            exp_avg_sq if exp_avg is not None else None,
            step,
            weight_out,
            partial,
            squares,
            scale,
            row_ptr,
            mask.numel(),
            rows,
            row_length,
            lr,
            float(beta1),
            float(beta2),
            float(eps),
            float(grad_clip),
            float(l1),
            float(grad_norm_clip),
            PROXIMAL=proximal,
            COMPUTE=compute_type(mask.dtype),
            WEIGHT_COMPUTE=compute_type(theta.dtype),
            EQUAL=row_ptr is None,
            BLOCK=BLOCK,
            num_warps=8,
            # Twice what it takes: left alone, ptxas spills a register to reach a rounder number.
            maxnreg=128,
        )
    torch.sum(partial, dim=0, out=stats)
