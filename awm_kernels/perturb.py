"""A universal trigger on a batch of images."""

from __future__ import annotations

from torch import Tensor

from awm_kernels import _check, _ops


def perturb(
    x: Tensor, delta: Tensor, low: float = 0.0, high: float = 1.0, *, backend: str = "auto"
) -> Tensor:
    """clip(x + Δ, low, high) in x's dtype and memory format (AWM paper, Eq. 4.2: x + Δ).

    Args:
        x: images, (n, …).
        delta: one trigger, `x.shape[1:]`, or one per image, `x.shape`; its dtype may differ.
        low, high: bounds of a pixel; ±inf for none.
        backend: "auto", "reference", "cpu", "cuda" or "triton".

    Returns:
        Triggered images, like `x`. The gradient is zero where a bound clips; that of a single
        trigger is the sum over the batch.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    _check.floating(x=x, delta=delta)
    _check.same_device("x", x, delta=delta)
    if x.dim() < 2:
        raise ValueError(f"x: expected at least 2 dimensions, got shape {tuple(x.shape)}")
    if delta.shape not in (x.shape, x.shape[1:]):
        raise ValueError(
            f"delta: expected shape {tuple(x.shape[1:])} or {tuple(x.shape)}, "
            f"got {tuple(delta.shape)}"
        )
    if not low <= high:
        raise ValueError(f"low: expected a number ≤ high ({high}), got {low}")
    y: Tensor = _ops.perturb(x, delta, low, high, backend)
    return y
