"""A universal trigger on a batch of images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from awm_kernels import _check
from awm_kernels import _reference as reference
from awm_kernels._backend import choose
from awm_kernels._layout import absent, like, ordered
from awm_kernels._registration import define_kernel, kernel

define_kernel("perturb_out(Tensor x, Tensor delta, float low, float high, Tensor(a!) out) -> ()")
define_kernel(
    "perturb_backward_out(Tensor grad, Tensor x, Tensor delta, float low, float high, "
    "Tensor(a!)? grad_x, Tensor(b!)? grad_delta) -> ()"
)


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
        NotImplementedError: an argument carries a forward-mode derivative.
    """
    _check.floating(x=x, delta=delta)
    _check.exactly(str, backend=backend)
    _check.same_device("x", x, delta=delta)
    if x.dim() < 2:
        raise ValueError(f"x: expected at least 2 dimensions, got shape {tuple(x.shape)}")
    if delta.shape not in (x.shape, x.shape[1:]):
        raise ValueError(
            f"delta: expected shape {tuple(x.shape[1:])} or {tuple(x.shape)}, "
            f"got {tuple(delta.shape)}"
        )
    low, high = _check.number("low", low), _check.number("high", high)
    if not low <= high:
        raise ValueError(f"low: expected a number ≤ high ({high}), got {low}")
    _check.reverse_only("perturb", x=x, delta=delta)
    y: Tensor = _op(x, delta, low, high, backend)
    return y


def _images(x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x with dimension 0 outermost, and x and Δ as matrices (rows, n) in its physical order."""
    x = ordered(x)
    if delta.dim() < x.dim():
        delta = delta.unsqueeze(0)
    # A batch of one may carry any stride in dimension 0: only the order inside an image counts.
    order = sorted(range(1, x.dim()), key=x.stride, reverse=True)
    inside = (0, *order)
    return (
        x,
        x.permute(inside).reshape(x.shape[0], -1),
        delta.permute(inside).reshape(delta.shape[0], -1).contiguous(),
    )


@torch.library.custom_op("awm_kernels::perturb", mutates_args=())
def _op(x: Tensor, delta: Tensor, low: float, high: float, backend: str) -> Tensor:
    chosen = choose(backend, x, delta, op="perturb")
    if chosen == "reference":
        return torch.empty_like(ordered(x)).copy_(reference.perturb(x, delta, low, high))
    out = torch.empty_like(ordered(x))
    if x.numel():
        _, rows, delta_rows = _images(x, delta)
        run = kernel("perturb", "perturb_out", chosen)
        run(rows, delta_rows, low, high, _images(out, delta)[1])
    return out


@_op.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(ordered(x))


@torch.library.custom_op("awm_kernels::perturb_backward", mutates_args=())
def _backward_op(
    grad: Tensor,
    x: Tensor,
    delta: Tensor,
    low: float,
    high: float,
    need_x: bool,
    need_delta: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    chosen = choose(backend, grad, x, delta, op="perturb")
    x = ordered(x)
    grad_x = torch.empty_like(x) if need_x else absent(x)
    if x.numel() == 0:
        return grad_x, delta.new_zeros(delta.shape) if need_delta else absent(delta)
    if chosen == "reference":
        made = reference.perturb_backward(grad, x, delta, low, high, need_x, need_delta)
        grad_delta = torch.empty_like(delta, memory_format=torch.contiguous_format)
        for target, source in zip((grad_x, grad_delta), made, strict=True):
            if source is not None:
                target.copy_(source)
        return grad_x, grad_delta if need_delta else absent(delta)
    _, rows, delta_rows = _images(x, delta)
    grad_rows = _images(like(grad, x), delta)[1]
    grad_x_rows = _images(grad_x, delta)[1] if need_x else None
    sums = torch.empty_like(delta_rows) if need_delta else None
    backward = kernel("perturb", "perturb_backward_out", chosen)
    backward(grad_rows, rows, delta_rows, low, high, grad_x_rows, sums)
    if sums is None:
        return grad_x, absent(delta)
    order = sorted(range(1, x.dim()), key=x.stride, reverse=True)
    lead = () if delta.dim() < x.dim() else (delta.shape[0],)
    shaped = sums.reshape(*lead, *(x.shape[dim] for dim in order))
    offset = len(lead)
    back = [order.index(dim) + offset for dim in range(1, x.dim())]
    return grad_x, shaped.permute(*range(offset), *back).contiguous()


@_backward_op.register_fake
def _(grad: Tensor, x: Tensor, delta: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    _, _, need_x, need_delta, _ = rest
    return (
        torch.empty_like(ordered(x)) if need_x else absent(x),
        delta.new_empty(delta.shape) if need_delta else absent(delta),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, delta, ctx.low, ctx.high, ctx.backend = inputs
    ctx.save_for_backward(x, delta)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    need_x, need_delta = ctx.needs_input_grad[:2]
    grad_x, grad_delta = torch.ops.awm_kernels.perturb_backward(
        grad, *ctx.saved_tensors, ctx.low, ctx.high, need_x, need_delta, ctx.backend
    )
    return grad_x if need_x else None, grad_delta if need_delta else None, None, None, None


_op.register_autograd(_backward, setup_context=_setup)
