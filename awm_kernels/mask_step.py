"""One optimiser step on the masks of a whole network, from its weight gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from awm_kernels import _check
from awm_kernels import _reference as reference
from awm_kernels._backend import choose
from awm_kernels._layout import like, ordered, scale_for, write_back
from awm_kernels._registration import in_place_op, kernel


def mask_step_(
    mask: Tensor,
    grad_weight: Tensor,
    theta: Tensor,
    step: Tensor,
    *,
    lr: float | Tensor,
    exp_avg: Tensor | None = None,
    exp_avg_sq: Tensor | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    grad_clip: float = math.inf,
    grad_norm_clip: float = math.inf,
    l1: float = 0.0,
    proximal: bool = False,
    scale: Tensor | None = None,
    row_ptr: Tensor | None = None,
    weight_out: Tensor | None = None,
    stats: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Update `mask` in place from dW, in one pass over memory (AWM paper, Algorithm 1, 11–13).

    g = dW ⊙ θ · s, scaled so that ‖g‖₂ is at most `grad_norm_clip`, then clipped to ±`grad_clip`;
    plus `l1` (γ's subgradient) unless `proximal`; Adam with both moments, SGD with momentum
    `betas[0]` with only `exp_avg`, plain SGD with neither; `proximal` then soft-thresholds by
    lr·l1; the mask is clipped to [0, 1]; `weight_out` receives s · (m ⊙ θ) of the new mask.
    Elements whose g is not finite keep their mask and moments.

    Args:
        mask: any shape, updated; flat, (n,), with `row_ptr`.
        grad_weight: dL/dW, same shape.
        theta: frozen weights, same shape.
        step: int64, 0-dim, the steps done so far; increased by one.
        lr: learning rate η₂ ≥ 0; or a 0-dim float64 tensor beside the mask, whose value is not
            checked (a captured CUDA graph reads it anew at each replay).
        exp_avg, exp_avg_sq: moments, updated; same shape, float32 (float64 for a float64 mask).
        betas, eps: as in torch.optim.Adam (no weight decay).
        grad_clip: elementwise bound on |g|; inf for none.
        grad_norm_clip: bound on ‖g‖₂ over finite elements, as in torch.nn.utils.clip_grad_norm_,
            which takes another pass over dW and θ; inf for none.
        l1: γ ≥ 0 of γ‖m‖₁.
        proximal: soft threshold instead of subgradient.
        scale, row_ptr: as in `masked_weight`.
        weight_out: same shape, overwritten; its dtype is the wanted one.
        stats: float64 (2,), overwritten; allocated if None.
        backend: "auto", "reference", "cpu", "cuda" or "triton".

    Returns:
        `stats`: (‖m‖₁ after the step, number of non-finite g), without a host sync.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came; nothing is
            changed then.
    """
    moments = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    optional = _check.present(weight_out=weight_out, scale=scale, **moments)
    _check.floating(mask=mask, grad_weight=grad_weight, theta=theta, **optional)
    _check.dense(step=step, **_check.present(row_ptr=row_ptr, stats=stats))
    _check.exactly(bool, proximal=proximal)
    _check.exactly(str, backend=backend)
    _check.same_shape(
        "mask", mask, grad_weight=grad_weight, theta=theta, weight_out=weight_out, **moments
    )
    if stats is None:
        stats = torch.empty(2, dtype=torch.float64, device=mask.device)
    _check.shape("stats", stats, (2,))
    if stats.dtype != torch.float64:
        raise TypeError(f"stats: expected torch.float64, got {stats.dtype}")
    _check.same_device(
        "mask",
        mask,
        grad_weight=grad_weight,
        theta=theta,
        step=step,
        weight_out=weight_out,
        stats=stats,
        scale=scale,
        row_ptr=row_ptr,
        **moments,
    )
    if step.dtype != torch.int64 or step.dim() != 0:
        raise ValueError(f"step: expected a 0-dim int64 tensor, got {step.dtype} {step.shape}")
    moment_dtype = torch.float64 if mask.dtype == torch.float64 else torch.float32
    for name, moment in moments.items():
        if moment is not None and moment.dtype != moment_dtype:
            raise TypeError(f"{name}: expected {moment_dtype}, got {moment.dtype}")
    if exp_avg is None and exp_avg_sq is not None:
        raise ValueError("exp_avg: expected a tensor beside exp_avg_sq, got None")
    _check.rows(theta, scale, row_ptr)
    written = _check.present(weight_out=weight_out, **moments)
    _check.writable(mask=mask, step=step, stats=stats, **written)
    numbers = {
        "eps": eps,
        "grad_clip": grad_clip,
        "grad_norm_clip": grad_norm_clip,
        "l1": l1,
    }
    if isinstance(lr, Tensor):
        if lr.dtype != torch.float64 or lr.dim() != 0:
            raise ValueError(f"lr: expected a number or 0-dim float64, got {lr.dtype} {lr.shape}")
    else:
        rate = _check.number("lr", lr, 0.0)
        lr = torch.full((), rate, dtype=torch.float64, device=mask.device)
    _check.same_device("mask", mask, lr=lr)
    numbers = {name: _check.number(name, value, 0.0) for name, value in numbers.items()}
    _check.exactly(Sequence, betas=betas)
    found = [_check.number("betas", beta, 0.0) for beta in betas]
    if len(found) != 2 or max(found) >= 1:
        raise ValueError(f"betas: expected two numbers in [0, 1), got {betas}")
    _op(
        mask,
        grad_weight,
        theta,
        exp_avg,
        exp_avg_sq,
        step,
        weight_out,
        stats,
        scale,
        row_ptr,
        lr,
        *found,
        numbers["eps"],
        numbers["grad_clip"],
        numbers["l1"],
        numbers["grad_norm_clip"],
        proximal,
        backend,
    )
    return stats


@in_place_op("mask_step_", "mask", "exp_avg", "exp_avg_sq", "step", "weight_out", "stats")
def _op(
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
    backend: str,
) -> None:
    chosen = choose(backend, mask, grad_weight, theta, weight_out, op="mask_step_")
    if scale is not None and row_ptr is not None:
        _check.offsets(mask.numel(), row_ptr)
        row_ptr = row_ptr.contiguous()
    if step.device.type == "cpu" and step < 0:
        raise ValueError(f"step: expected a number ≥ 0, got {int(step)}")
    step.add_(1)
    numbers = (lr, beta1, beta2, eps, grad_clip, l1, grad_norm_clip, proximal)
    if chosen == "reference":
        reference.mask_step_(
            mask, grad_weight, theta, exp_avg, exp_avg_sq, step, weight_out, stats, scale, row_ptr,
            *numbers,
        )  # fmt: skip
        return
    dense = ordered(mask)
    grad_weight, theta = like(grad_weight, dense), like(theta, dense)
    changed = (exp_avg, exp_avg_sq, weight_out)
    first, second, weight = (None if t is None else like(t, dense) for t in changed)
    sums = stats.contiguous()
    factors = (scale_for(theta, scale), row_ptr)
    run = kernel("mask_step", "mask_step_", chosen)
    run(dense, grad_weight, theta, first, second, step, weight, sums, *factors, *numbers)
    made = (dense, first, second, weight, sums)
    for target, source in zip((mask, *changed, stats), made, strict=True):
        if target is not None and source is not None:
            write_back(target, source)
