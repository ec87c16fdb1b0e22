"""The ops in plain PyTorch: the definition that every kernel is tested against.

Everything here runs on any device and in any floating dtype (float64 included).
Arithmetic on bfloat16 and float16 storage is done in float32 and rounded once at the end,
which is also what the kernels do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that arithmetic on tensors stored as `dtype` is done in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def row_scale(theta: Tensor, scale: Tensor | None, row_ptr: Tensor | None) -> Tensor | None:
    """`scale` (one value a row) broadcast so that it multiplies `theta` elementwise."""
    if scale is None:
        return None
    scale = scale.to(compute_dtype(theta.dtype))
    if row_ptr is None:
        return scale.reshape(-1, *([1] * (theta.dim() - 1)))
    return scale.repeat_interleave(row_ptr.diff(), output_size=theta.numel())


def masked_weight(
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    row_ptr: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """W = s · (m ⊙ θ), rounded once to `dtype`, in θ's memory format."""
    compute = compute_dtype(theta.dtype)
    weight = mask.to(compute) * theta.to(compute)
    factor = row_scale(theta, scale, row_ptr)
    if factor is not None:
        weight = weight * factor
    return weight.to(dtype)


def mask_grad(
    grad_weight: Tensor,
    theta: Tensor,
    scale: Tensor | None,
    row_ptr: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """dm = dW ⊙ θ · s: the epilogue that turns a weight gradient into a mask gradient."""
    return masked_weight(theta, grad_weight, scale, row_ptr, dtype)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolution over as many spatial dimensions as `weight` has."""
    return torch.ops.aten.convolution(
        x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups
    )


def masked_conv(
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """conv(x, W, b) with W = s · (m ⊙ θ) rounded to x's dtype."""
    weight = masked_weight(theta, mask, scale, None, x.dtype)
    return conv(x, weight, bias, stride, padding, dilation, groups)


def masked_linear(
    x: Tensor, theta: Tensor, mask: Tensor, scale: Tensor | None, bias: Tensor | None
) -> Tensor:
    """x Wᵀ + b with W = s · (m ⊙ θ) rounded to x's dtype."""
    return F.linear(x, masked_weight(theta, mask, scale, None, x.dtype), bias)


def conv_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of `conv` for (x, weight, bias), only where asked for."""
    return torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        [weight.shape[0]],
        stride,
        padding,
        dilation,
        False,
        [0] * len(stride),
        groups,
        [need_x, need_weight, need_bias],
    )


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
    """One optimiser step on the mask from the weight gradient, in place.

    g = dW ⊙ θ · s, scaled so that ‖g‖₂ over finite elements is at most grad_norm_clip (as in
    torch.nn.utils.clip_grad_norm_); then clipped to ±grad_clip; plus `l1` (the mask is never
    negative, so that is the subgradient of l1·‖m‖₁) unless `proximal`. Adam when both moments are
    given, otherwise SGD, with momentum `beta1` when only `exp_avg` is. `proximal` then subtracts
    lr·l1 (the soft threshold of a non-negative number). The mask ends in [0, 1]; where g is not
    finite, mask and moments stay as they are. `stats` receives (‖m‖₁, number of such elements).
    """
    compute = compute_dtype(mask.dtype)
    rate = lr.to(compute)
    grad = mask_grad(grad_weight, theta, scale, row_ptr, compute)
    finite = grad.isfinite()
    if grad_norm_clip < math.inf:
        norm = torch.where(finite, grad, 0).to(torch.float64).square().sum().sqrt()
        grad = grad * (grad_norm_clip / (norm + 1e-6)).clamp(max=1).to(compute)
    grad = grad.clamp(-grad_clip, grad_clip)
    if not proximal:
        grad = grad + l1
    if exp_avg_sq is not None and exp_avg is not None:
        first = exp_avg + (1 - beta1) * (grad - exp_avg)
        second = exp_avg_sq * beta2 + (1 - beta2) * grad * grad
        count = step.to(torch.float64)
        correction1 = (1 - beta1**count).to(compute)
        correction2 = (1 - beta2**count).sqrt().to(compute)
        update = (rate / correction1) * first / (second.sqrt() / correction2 + eps)
        exp_avg_sq.copy_(torch.where(finite, second, exp_avg_sq))
        exp_avg.copy_(torch.where(finite, first, exp_avg))
    elif exp_avg is not None:
        first = beta1 * exp_avg + grad
        update = rate * first
        exp_avg.copy_(torch.where(finite, first, exp_avg))
    else:
        update = rate * grad
    value = mask.to(compute) - update
    if proximal:
        value = value - (lr * l1).to(compute)
    mask.copy_(torch.where(finite, value.clamp(0, 1), mask.to(compute)))
    stats[0] = mask.sum(dtype=stats.dtype)
    stats[1] = (~finite).sum()
    if weight_out is not None:
        weight_out.copy_(masked_weight(theta, mask, scale, row_ptr, weight_out.dtype))


def l1_rescale_(delta: Tensor, radius: Tensor) -> None:
    """Each row v of `delta` (rows, n) becomes v · min(1, radius / ‖v‖₁). Algorithm 1, line 9."""
    compute = compute_dtype(delta.dtype)
    rows = delta.to(compute)
    norm = rows.abs().sum(dim=1, keepdim=True)
    limit = radius.to(compute).unsqueeze(1)
    delta.copy_(torch.where(norm > limit, rows * (limit / norm), rows))


def l1_project_(delta: Tensor, radius: Tensor) -> None:
    """Each row of `delta` (rows, n) becomes the nearest point (Euclidean) with ‖v‖₁ ≤ radius.

    By sorting: Duchi et al., "Efficient projections onto the l1-ball", ICML 2008, figure 1.
    """
    if delta.numel() == 0:
        return
    compute = compute_dtype(delta.dtype)
    rows = delta.to(compute)
    limit = radius.to(compute).unsqueeze(1)
    size = rows.abs()
    ordered = size.sort(dim=1, descending=True).values
    excess = ordered.cumsum(dim=1) - limit
    rank = torch.arange(1, rows.shape[1] + 1, device=rows.device, dtype=compute)
    active = (ordered * rank > excess).sum(dim=1, keepdim=True).clamp(min=1)
    threshold = excess.gather(1, active - 1) / active
    shrunk = rows.sign() * (size - threshold).clamp(min=0)
    inside = size.sum(dim=1, keepdim=True) <= limit
    delta.copy_(torch.where(inside, rows, shrunk))


def perturb(x: Tensor, delta: Tensor, low: float, high: float) -> Tensor:
    """clip(x + Δ, low, high) in x's dtype and memory format; x is (n, …) and Δ (…) or (n, …)."""
    compute = compute_dtype(x.dtype)
    return (x.to(compute) + delta.to(compute)).clamp(low, high).to(x.dtype)


def perturb_backward(
    grad: Tensor, x: Tensor, delta: Tensor, low: float, high: float, need_x: bool, need_delta: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of `perturb`: zero where x + Δ lies outside [low, high]; Δ's is summed over n."""
    compute = compute_dtype(x.dtype)
    value = x.to(compute) + delta.to(compute)
    passed = torch.where((value >= low) & (value <= high), grad.to(compute), 0)
    grad_x = passed.to(x.dtype) if need_x else None
    if not need_delta:
        return grad_x, None
    if delta.dim() < x.dim():
        passed = passed.sum(dim=0)
    return grad_x, passed.to(delta.dtype)


def trigger_step_(
    delta: Tensor, grad: Tensor, radius: Tensor, lr: float, project: bool, bound: bool
) -> None:
    """Rows of Δ ← Δ + lr·grad, then on the L1 ball (projected or rescaled) if `bound`."""
    compute = compute_dtype(delta.dtype)
    moved = delta.to(compute) + lr * grad.to(compute)
    if bound:
        (l1_project_ if project else l1_rescale_)(moved, radius)
    delta.copy_(moved)


def pooled_elu(x: Tensor, window: int, alpha: float) -> Tensor:
    """ELU of the maxima of windows of x (n, c, h, w), in x's dtype."""
    pooled = F.max_pool2d(x.to(compute_dtype(x.dtype)), window)
    return F.elu(pooled, alpha).to(x.dtype)


def pooled_elu_backward(grad: Tensor, x: Tensor, window: int, alpha: float) -> Tensor:
    """Gradient of `pooled_elu`: to the first of the largest elements of each window."""
    compute = compute_dtype(x.dtype)
    pooled, chosen = F.max_pool2d(x.to(compute), window, return_indices=True)
    slope = torch.where(pooled > 0, 1.0, alpha * pooled.clamp(max=0).exp())
    grad_x = torch.zeros(x.shape, dtype=compute, device=x.device)
    grad_x.flatten(2).scatter_(2, chosen.flatten(2), (grad.to(compute) * slope).flatten(2))
    return grad_x.to(x.dtype)
