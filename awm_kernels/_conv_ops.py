"""Schema, fake, autograd and kernels of masked_conv."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from awm_kernels import _passes
from awm_kernels import _reference as reference
from awm_kernels._backend import choose
from awm_kernels._ops import _absent, _masked_weight, _ordered


def _place_2d(
    stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> _passes.Place:
    if len(stride) == 1:
        return _passes.Place([1, *stride], [0, *padding], [1, *dilation], groups)
    return _passes.Place(stride, padding, dilation, groups)


def _as_2d(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(2) if tensor.dim() == 3 else tensor


def _conv_tf32(x: Tensor) -> bool:
    # Not `allow_tf32`: reading that fails where the newer settings were used.
    return x.dtype == torch.float32 and torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]


@torch.library.custom_op("awm_kernels::masked_conv", mutates_args=())
def masked_conv(
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    backend: str,
) -> Tensor:
    chosen = choose(backend, x, theta, mask)
    weights = _passes.for_weights(backend, chosen)

    def library() -> Tensor:
        weight = _masked_weight(theta, mask, scale, None, x.dtype, weights)
        return reference.conv(x, weight, bias, stride, padding, dilation, groups)

    if not _passes.may_fuse(backend, chosen, x):
        return library()
    place, tf32 = _place_2d(stride, padding, dilation, groups), _conv_tf32(x)
    x2, theta2 = _as_2d(x), _as_2d(theta)

    def fused() -> Tensor:
        form = _passes.format_of(x2, theta2)
        y = _passes.fused_forward(x2, theta2, _as_2d(mask), scale, bias, place, tf32, form)
        return y.squeeze(2) if x.dim() == 3 else y

    return _passes.either("forward", backend, x2, theta2, place, tf32, fused, library)


@masked_conv.register_fake
def _(
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    backend: str,
) -> Tensor:
    weight = torch.empty_like(_ordered(theta), dtype=x.dtype)
    return reference.conv(x, weight, bias, stride, padding, dilation, groups)


@torch.library.custom_op("awm_kernels::masked_conv_backward", mutates_args=())
def masked_conv_backward(
    grad: Tensor,
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    needs: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    need_x, need_theta, need_mask, need_scale, need_bias = needs
    chosen = choose(backend, x, theta, mask)
    weights = _passes.for_weights(backend, chosen)

    def library(need_x: bool, need_weight: bool, need_bias: bool) -> tuple[Tensor | None, ...]:
        # The gradients of the weight and the bias don't read the weight.
        weight = (
            _masked_weight(theta, mask, scale, None, x.dtype, weights)
            if need_x
            else torch.empty_like(_ordered(theta), dtype=x.dtype)
        )
        place = (stride, padding, dilation, groups)
        return reference.conv_backward(grad, x, weight, *place, need_x, need_weight, need_bias)

    grad_x, grad_weight, grad_bias = None, None, None
    grads = (_absent(theta), _absent(mask), _absent(theta))
    need_weight = need_theta or need_mask or need_scale
    if not _passes.may_fuse(backend, chosen, x):
        grad_x, grad_weight, grad_bias = library(need_x, need_weight, need_bias)
    else:
        place, tf32 = _place_2d(stride, padding, dilation, groups), _conv_tf32(x)
        grad2, x2, theta2, mask2 = map(_as_2d, (grad, x, theta, mask))
        form = _passes.format_of(x2, theta2)
        if need_x:
            grad_x = _passes.either(
                "input gradient",
                backend,
                x2,
                theta2,
                place,
                tf32,
                lambda: _passes.fused_input_grad(
                    grad2, theta2, mask2, scale, x2.shape, place, tf32, form
                ).view(x.shape),
                lambda: _present(library(True, False, False)[0]),
            )
        if need_mask and not (need_theta or need_scale):
            grad_mask = _passes.either(
                "mask gradient",
                backend,
                x2,
                theta2,
                place,
                tf32,
                lambda: _passes.fused_mask_grad(grad2, x2, theta2, mask2, scale, place, tf32).view(
                    mask.shape
                ),
                lambda: _passes.weight_grads(
                    _present(library(False, True, False)[1]),
                    theta,
                    mask,
                    scale,
                    needs[1:4],
                    weights,
                )[1],
            )
            grads = (grads[0], grad_mask, grads[2])
        elif need_weight:
            grad_weight = library(False, True, False)[1]
        if need_bias:
            grad_bias = grad2.sum(dim=(0, 2, 3))
    if need_weight and grad_weight is not None:
        grads = _passes.weight_grads(grad_weight, theta, mask, scale, needs[1:4], weights)
    return (
        grad_x if need_x and grad_x is not None else _absent(x),
        *grads,
        grad_bias if need_bias and grad_bias is not None else _absent(x),
    )


def _present(grad: Tensor | None) -> Tensor:
    assert grad is not None
    return grad


@masked_conv_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    needs: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    weight = torch.empty_like(_ordered(theta), dtype=x.dtype)
    grad_x, grad_weight, _ = reference.conv_backward(
        grad, x, weight, stride, padding, dilation, groups, needs[0], any(needs[1:4]), False
    )
    absent = (_absent(x), _absent(theta), _absent(mask), _absent(theta), _absent(x))
    made = (
        grad_x,
        None if grad_weight is None else torch.empty_like(_ordered(grad_weight), dtype=theta.dtype),
        torch.empty_like(_ordered(theta), dtype=mask.dtype),
        scale,
        x.new_empty(theta.shape[0]),
    )
    return tuple(  # type: ignore[return-value]
        torch.empty_like(value) if need and value is not None else nothing
        for need, value, nothing in zip(needs, made, absent, strict=True)
    )


def _masked_conv_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, theta, mask, scale, _, *ctx.params, ctx.backend = inputs
    ctx.save_for_backward(x, theta, mask, scale)


def _masked_conv_autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:5])
    grads = torch.ops.awm_kernels.masked_conv_backward(
        grad, *ctx.saved_tensors, *ctx.params, needs, ctx.backend
    )
    asked = (g if need else None for g, need in zip(grads, needs, strict=True))
    return (*asked, *(None for _ in range(5)))


masked_conv.register_autograd(_masked_conv_autograd, setup_context=_masked_conv_setup)
