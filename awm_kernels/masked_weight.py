"""Masked weights: s · (m ⊙ θ) for one layer, or for a whole network at once."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from awm_kernels import _check
from awm_kernels import _reference as reference
from awm_kernels._backend import choose
from awm_kernels._layout import absent, like, ordered, scale_for
from awm_kernels._reference import compute_dtype
from awm_kernels._registration import in_place_op, kernel


def masked_weight(
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None = None,
    *,
    row_ptr: Tensor | None = None,
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """W = s · (m ⊙ θ), rounded once to `dtype` (AWM paper, Eq. 4.3: m ⊙ θ).

    Args:
        theta: weights of any shape; or, with `row_ptr`, the weights of many layers in one flat
            buffer, (n,).
        mask: same shape.
        scale: one factor per row (output channel), (rows,); a folded BatchNorm, say.
        row_ptr: int64 (rows + 1,), ascending from 0 to n: row r is elements
            `row_ptr[r]:row_ptr[r + 1]`. Without it, rows are `theta`'s first dimension. A
            channels_last weight keeps its rows contiguous, so flat buffers may hold either layout.
        dtype: of the result; default `theta.dtype`, or that of `out`.
        out: where to write W, in θ's shape and of the result's dtype, and not overlapping with the
            other arguments. Saves asking for new memory, which for a large network takes longer
            than the work. Not differentiable.
        backend: "auto", "reference", "cpu", "cuda" or "triton".

    Returns:
        W in θ's shape and memory format, or `out`. Differentiable in mask, theta and scale.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
        NotImplementedError: an argument carries a forward-mode derivative.
    """
    _check.floating(theta=theta, mask=mask, **_check.present(scale=scale))
    _check.dense(**_check.present(row_ptr=row_ptr))
    _check.exactly(str, backend=backend)
    _check.exactly(torch.dtype, **_check.present(dtype=dtype))
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"dtype: expected that of floating-point numbers, got {dtype}")
    _check.same_shape("theta", theta, mask=mask)
    _check.same_device("theta", theta, mask=mask, scale=scale, row_ptr=row_ptr)
    _check.rows(theta, scale, row_ptr)
    _check.reverse_only("masked_weight", theta=theta, mask=mask, **_check.present(scale=scale))
    if out is not None:
        return _into(out, theta, mask, scale, row_ptr, dtype, backend)
    result: Tensor = _op(theta, mask, scale, row_ptr, dtype or theta.dtype, backend)
    return result


def _into(
    out: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    row_ptr: Tensor | None,
    dtype: torch.dtype | None,
    backend: str,
) -> Tensor:
    _check.floating(out=out)
    _check.writable(out=out)
    _check.same_shape("theta", theta, out=out)
    _check.same_device("theta", theta, out=out)
    if dtype not in (None, out.dtype):
        raise TypeError(f"out: expected dtype's {dtype}, got {out.dtype}")
    inputs = {"theta": theta, "mask": mask, "scale": scale, "out": out}
    wanted = [name for name, value in inputs.items() if value is not None and value.requires_grad]
    if torch.is_grad_enabled() and wanted:
        raise ValueError(
            f"out: expected no argument that requires a gradient, got {', '.join(wanted)}; leave "
            "out away, or call under torch.no_grad()"
        )
    _out_op(theta, mask, scale, row_ptr, out, backend)
    return out


def make_weight(
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    row_ptr: Tensor | None,
    dtype: torch.dtype,
    backend: str,
    out: Tensor | None = None,
) -> Tensor:
    """`masked_weight` unchecked and without autograd, for use inside ops."""
    result = theta.new_empty(0, dtype=dtype) if out is None else out
    chosen = choose(backend, theta, mask, result, op="masked_weight")
    if scale is not None and row_ptr is not None:
        _check.offsets(theta.numel(), row_ptr)
        row_ptr = row_ptr.contiguous()
    if chosen == "reference":
        made = reference.masked_weight(theta, mask, scale, row_ptr, dtype)
        return made if out is None else out.copy_(made)
    theta = ordered(theta)
    fits = out is not None and out.stride() == theta.stride()
    dense = out if out is not None and fits else torch.empty_like(theta, dtype=dtype)
    write = kernel("masked_weight", "masked_weight_out", chosen)
    write(theta, like(mask, theta), scale_for(theta, scale), row_ptr, dense)
    return dense if out is None or fits else out.copy_(dense)


def weight_grads(
    grad_weight: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    needs: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """dW → (dθ, dm, ds), each only if needed: the epilogue of a layer's weight gradient."""
    need_theta, need_mask, need_scale = needs
    return (
        make_weight(grad_weight, mask, scale, None, theta.dtype, backend)
        if need_theta
        else absent(theta),
        make_weight(theta, grad_weight, scale, None, mask.dtype, backend)
        if need_mask
        else absent(mask),
        _row_sums(grad_weight * (mask * theta), None, scale)
        if need_scale and scale is not None
        else absent(theta),
    )


def _row_sums(values: Tensor, row_ptr: Tensor | None, like: Tensor) -> Tensor:
    """Sum of `values` over each row, as the gradient of a scale shaped like `like`."""
    compute = compute_dtype(values.dtype)
    if row_ptr is None:
        size = math.prod(values.shape[1:])  # -1 would not do: there may be no rows
        sums = values.reshape(values.shape[0], size).sum(dim=1, dtype=compute)
    else:
        rows = torch.arange(like.numel(), device=values.device)
        index = rows.repeat_interleave(row_ptr.diff(), output_size=values.numel())
        sums = torch.zeros(like.shape, dtype=compute, device=values.device)
        sums = sums.index_add(0, index, values.to(compute))
    return sums.to(like.dtype)


@in_place_op("masked_weight_out", "out")
def _out_op(
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    row_ptr: Tensor | None,
    out: Tensor,
    backend: str,
) -> None:
    make_weight(theta, mask, scale, row_ptr, out.dtype, backend, out)


@torch.library.custom_op("awm_kernels::masked_weight", mutates_args=())
def _op(
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    row_ptr: Tensor | None,
    dtype: torch.dtype,
    backend: str,
) -> Tensor:
    return make_weight(theta, mask, scale, row_ptr, dtype, backend)


@_op.register_fake
def _(
    theta: Tensor, mask: Tensor, scale: Any, row_ptr: Any, dtype: torch.dtype, backend: str
) -> Tensor:
    return torch.empty_like(ordered(theta), dtype=dtype)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    theta, mask, scale, row_ptr, _, ctx.backend = inputs
    ctx.save_for_backward(theta, mask, scale, row_ptr)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
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


_op.register_autograd(_backward, setup_context=_setup)
