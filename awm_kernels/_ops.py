"""Schemas, fakes, autograd and the choice of backend of every op, once.

The public functions in the modules beside this one check their arguments and call these.
Kernels (C++ or Triton) see dense tensors in one physical order; bringing arguments into that
form happens here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from awm_kernels import _reference as reference
from awm_kernels._backend import choose
from awm_kernels._in_place import in_place_op
from awm_kernels._reference import compute_dtype

OPS = (
    "masked_conv",
    "masked_linear",
    "masked_weight",
    "mask_step_",
    "l1_rescale_",
    "l1_project_",
    "perturb",
    "trigger_step_",
    "pooled_elu",
)

_TRITON_HOME = {
    "masked_weight_out": "masked_weight",
    "mask_step_": "mask_step",
    "l1_rescale_": "l1_ball",
    "l1_project_": "l1_ball",
    "perturb_out": "perturb",
    "perturb_backward_out": "perturb",
    "trigger_step_": "trigger_step",
    "masked_conv_forward": "masked_conv",
    "masked_conv_input_grad": "masked_conv",
    "masked_conv_mask_grad": "masked_conv",
}


@functools.cache
def _kernel(backend: str, name: str) -> Callable[..., Any]:
    if backend in ("cpu", "cuda"):
        packet = getattr(getattr(torch.ops, f"awm_kernels_{backend}"), name)
        kernel: Callable[..., Any] = packet.default
        return kernel
    module = import_module(f"awm_kernels._triton.{_TRITON_HOME[name]}")
    return getattr(module, name)


def _is_dense(tensor: Tensor) -> bool:
    return bool(torch.ops.aten.is_non_overlapping_and_dense(tensor))


def _rows_first(tensor: Tensor) -> bool:
    """Dense, with dimension 0 outermost in memory (contiguous, channels_last)."""
    return _is_dense(tensor) and (
        tensor.dim() == 0
        or tensor.shape[0] <= 1
        or tensor.stride(0) * tensor.shape[0] == tensor.numel()
    )


def _ordered(tensor: Tensor) -> Tensor:
    """`tensor`, copied to contiguous memory unless it is dense with dimension 0 outermost."""
    return tensor if _rows_first(tensor) else tensor.contiguous()


def _like(tensor: Tensor, model: Tensor) -> Tensor:
    """`tensor`, copied unless it already has the (dense) strides of `model`."""
    if tensor.stride() == model.stride():
        return tensor
    return torch.empty_like(model, dtype=tensor.dtype).copy_(tensor)


def _scale(scale: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if scale is None else scale.to(compute_dtype(dtype)).contiguous()


def _masked_weight(
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    row_ptr: Tensor | None,
    dtype: torch.dtype,
    backend: str,
    out: Tensor | None = None,
) -> Tensor:
    result = theta.new_empty(0, dtype=dtype) if out is None else out
    chosen = choose(backend, theta, mask, result, has_cuda=True)
    if chosen == "reference":
        made = reference.masked_weight(theta, mask, scale, row_ptr, dtype)
        return made if out is None else out.copy_(made)
    theta = _ordered(theta)
    fits = out is not None and out.stride() == theta.stride()
    dense = out if out is not None and fits else torch.empty_like(theta, dtype=dtype)
    scale = _scale(scale, theta.dtype)
    _kernel(chosen, "masked_weight_out")(theta, _like(mask, theta), scale, row_ptr, dense)
    return dense if out is None or fits else out.copy_(dense)


@in_place_op("out")
def masked_weight_out(
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    row_ptr: Tensor | None,
    out: Tensor,
    backend: str,
) -> None:
    _masked_weight(theta, mask, scale, row_ptr, out.dtype, backend, out)


@torch.library.custom_op("awm_kernels::masked_weight", mutates_args=())
def masked_weight(
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    row_ptr: Tensor | None,
    dtype: torch.dtype,
    backend: str,
) -> Tensor:
    return _masked_weight(theta, mask, scale, row_ptr, dtype, backend)


@masked_weight.register_fake
def _(
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    row_ptr: Tensor | None,
    dtype: torch.dtype,
    backend: str,
) -> Tensor:
    return torch.empty_like(_ordered(theta), dtype=dtype)


def _row_sums(values: Tensor, row_ptr: Tensor | None, like: Tensor) -> Tensor:
    """Sum of `values` over each row, as the gradient of a scale shaped like `like`."""
    compute = compute_dtype(values.dtype)
    if row_ptr is None:
        sums = values.reshape(values.shape[0], -1).sum(dim=1, dtype=compute)
    else:
        rows = torch.arange(like.numel(), device=values.device)
        index = rows.repeat_interleave(row_ptr.diff(), output_size=values.numel())
        sums = torch.zeros(like.shape, dtype=compute, device=values.device)
        sums = sums.index_add(0, index, values.to(compute))
    return sums.to(like.dtype)


def _masked_weight_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    theta, mask, scale, row_ptr, _, ctx.backend = inputs
    ctx.save_for_backward(theta, mask, scale, row_ptr)


def _masked_weight_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    theta, mask, scale, row_ptr = ctx.saved_tensors
    need_theta, need_mask, need_scale = ctx.needs_input_grad[:3]
    product = torch.ops.awm_kernels.masked_weight
    return (
        product(grad, mask, scale, row_ptr, theta.dtype, ctx.backend) if need_theta else None,
        product(theta, grad, scale, row_ptr, mask.dtype, ctx.backend) if need_mask else None,
        _row_sums(grad * (mask * theta), row_ptr, scale) if need_scale else None,
        None,
        None,
        None,
    )


masked_weight.register_autograd(_masked_weight_backward, setup_context=_masked_weight_setup)


def _absent(like: Tensor) -> Tensor:
    """Stands for a gradient nobody asked for: an op must return tensors."""
    return like.new_empty(0)


def _write_back(target: Tensor, source: Tensor) -> None:
    if target is not source:
        target.copy_(source)


def _step_workspace(mask: Tensor) -> Tensor:
    """Room for two sums of each of the CUDA kernel's blocks (2048 elements), and of all.

    Allocated here, so that in a CUDA graph it comes from the graph's own memory.
    """
    blocks = -(-mask.numel() // 2048)
    return torch.empty(2 * (1 + blocks), dtype=torch.float64, device=mask.device)


@in_place_op("mask", "exp_avg", "exp_avg_sq", "step", "weight_out", "stats")
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
    backend: str,
) -> None:
    step.add_(1)
    numbers = (lr, beta1, beta2, eps, grad_clip, l1, grad_norm_clip, proximal)
    chosen = choose(backend, mask, grad_weight, theta, weight_out, has_cuda=True)
    if chosen == "reference":
        reference.mask_step_(
            mask, grad_weight, theta, exp_avg, exp_avg_sq, step, weight_out, stats, scale, row_ptr,
            *numbers,
        )  # fmt: skip
        return
    dense_mask = _ordered(mask)
    optional = [None if t is None else _like(t, dense_mask) for t in (exp_avg, exp_avg_sq)]
    dense_out = None if weight_out is None else _like(weight_out, dense_mask)
    dense_stats = stats.contiguous()
    workspace = (_step_workspace(dense_mask),) if chosen == "cuda" else ()
    _kernel(chosen, "mask_step_")(
        dense_mask,
        _like(grad_weight, dense_mask),
        _like(theta, dense_mask),
        *optional,
        step,
        dense_out,
        dense_stats,
        _scale(scale, theta.dtype),
        row_ptr,
        *numbers,
        *workspace,
    )
    pairs = ((mask, dense_mask), (exp_avg, optional[0]), (exp_avg_sq, optional[1]))
    for target, source in (*pairs, (weight_out, dense_out), (stats, dense_stats)):
        if target is not None and source is not None:
            _write_back(target, source)


def _on_rows(name: str, delta: Tensor, radius: Tensor, backend: str) -> None:
    chosen = choose(backend, delta, has_cuda=True)
    if chosen == "reference":
        getattr(reference, name)(delta, radius)
        return
    dense = delta.contiguous()
    _kernel(chosen, name)(dense, radius.to(compute_dtype(delta.dtype)).contiguous())
    _write_back(delta, dense)


@in_place_op("delta")
def l1_rescale_(delta: Tensor, radius: Tensor, backend: str) -> None:
    _on_rows("l1_rescale_", delta, radius, backend)


@in_place_op("delta")
def l1_project_(delta: Tensor, radius: Tensor, backend: str) -> None:
    _on_rows("l1_project_", delta, radius, backend)


@in_place_op("delta")
def trigger_step_(
    delta: Tensor, grad: Tensor, radius: Tensor, lr: float, project: bool, bound: bool, backend: str
) -> None:
    chosen = choose(backend, delta, grad, has_cuda=True)
    if chosen == "reference":
        reference.trigger_step_(delta, grad, radius, lr, project, bound)
        return
    dense = delta.contiguous()
    radius = radius.to(compute_dtype(delta.dtype)).contiguous()
    _kernel(chosen, "trigger_step_")(dense, grad.contiguous(), radius, lr, project, bound)
    _write_back(delta, dense)


def _images(x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x with dimension 0 outermost, and x and Δ as matrices (rows, n) in its physical order."""
    x = _ordered(x)
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
def perturb(x: Tensor, delta: Tensor, low: float, high: float, backend: str) -> Tensor:
    chosen = choose(backend, x, delta, has_cuda=True)
    if chosen == "reference":
        return torch.empty_like(_ordered(x)).copy_(reference.perturb(x, delta, low, high))
    out = torch.empty_like(_ordered(x))
    if x.numel():
        _, rows, delta_rows = _images(x, delta)
        _kernel(chosen, "perturb_out")(rows, delta_rows, low, high, _images(out, delta)[1])
    return out


@perturb.register_fake
def _(x: Tensor, delta: Tensor, low: float, high: float, backend: str) -> Tensor:
    return torch.empty_like(_ordered(x))


@torch.library.custom_op("awm_kernels::perturb_backward", mutates_args=())
def perturb_backward(
    grad: Tensor,
    x: Tensor,
    delta: Tensor,
    low: float,
    high: float,
    need_x: bool,
    need_delta: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    chosen = choose(backend, grad, x, delta, has_cuda=True)
    x = _ordered(x)
    grad_x = torch.empty_like(x) if need_x else _absent(x)
    if x.numel() == 0:
        return grad_x, delta.new_zeros(delta.shape) if need_delta else _absent(delta)
    if chosen == "reference":
        made = reference.perturb_backward(grad, x, delta, low, high, need_x, need_delta)
        grad_delta = torch.empty_like(delta, memory_format=torch.contiguous_format)
        for target, source in zip((grad_x, grad_delta), made, strict=True):
            if source is not None:
                target.copy_(source)
        return grad_x, grad_delta if need_delta else _absent(delta)
    _, rows, delta_rows = _images(x, delta)
    grad_rows = _images(_like(grad, x), delta)[1]
    grad_x_rows = _images(grad_x, delta)[1] if need_x else None
    sums = torch.empty_like(delta_rows) if need_delta else None
    backward = _kernel(chosen, "perturb_backward_out")
    backward(grad_rows, rows, delta_rows, low, high, grad_x_rows, sums)
    if sums is None:
        return grad_x, _absent(delta)
    order = sorted(range(1, x.dim()), key=x.stride, reverse=True)
    lead = () if delta.dim() < x.dim() else (delta.shape[0],)
    shaped = sums.reshape(*lead, *(x.shape[dim] for dim in order))
    offset = len(lead)
    back = [order.index(dim) + offset for dim in range(1, x.dim())]
    return grad_x, shaped.permute(*range(offset), *back).contiguous()


@perturb_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    delta: Tensor,
    low: float,
    high: float,
    need_x: bool,
    need_delta: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(_ordered(x)) if need_x else _absent(x),
        delta.new_empty(delta.shape) if need_delta else _absent(delta),
    )


def _perturb_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, delta, ctx.low, ctx.high, ctx.backend = inputs
    ctx.save_for_backward(x, delta)


def _perturb_autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    need_x, need_delta = ctx.needs_input_grad[:2]
    grad_x, grad_delta = torch.ops.awm_kernels.perturb_backward(
        grad, *ctx.saved_tensors, ctx.low, ctx.high, need_x, need_delta, ctx.backend
    )
    return grad_x if need_x else None, grad_delta if need_delta else None, None, None, None


perturb.register_autograd(_perturb_autograd, setup_context=_perturb_setup)
