"""Schema, fake, autograd and kernels of masked_linear."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from awm_kernels import _passes
from awm_kernels._backend import choose
from awm_kernels._ops import _absent, _masked_weight, _ordered


def _linear_tf32(x: Tensor) -> bool:
    return x.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"


def _matrix(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def _as_conv(tensor: Tensor) -> Tensor:
    """(…, features) as (rows, features, 1, 1): a linear map is a 1x1 convolution."""
    return _matrix(tensor)[:, :, None, None]


_EVERYWHERE = _passes.Place([1, 1], [0, 0], [1, 1], 1)


@torch.library.custom_op("awm_kernels::masked_linear", mutates_args=())
def masked_linear(
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    backend: str,
) -> Tensor:
    chosen = choose(backend, x, theta, mask)
    weights = _passes.for_weights(backend, chosen)

    def library() -> Tensor:
        weight = _masked_weight(theta, mask, scale, None, x.dtype, weights)
        return torch.nn.functional.linear(x, weight, bias)

    if not _passes.may_fuse(backend, chosen, _matrix(x)):
        return library()
    tf32 = _linear_tf32(x)
    x4, theta4, mask4 = map(_as_conv, (x, theta, mask))

    def fused() -> Tensor:
        y = _passes.fused_forward(
            x4, theta4, mask4, scale, bias, _EVERYWHERE, tf32, torch.channels_last
        )
        return y.view(*x.shape[:-1], theta.shape[0])

    return _passes.either("forward", backend, x4, theta4, _EVERYWHERE, tf32, fused, library)


@masked_linear.register_fake
def _(
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    backend: str,
) -> Tensor:
    return x.new_empty(*x.shape[:-1], theta.shape[0])


@torch.library.custom_op("awm_kernels::masked_linear_backward", mutates_args=())
def masked_linear_backward(
    grad: Tensor,
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    needs: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    need_x, need_theta, need_mask, need_scale, need_bias = needs
    chosen = choose(backend, x, theta, mask)
    weights = _passes.for_weights(backend, chosen)

    def library_input_grad() -> Tensor:
        return grad.matmul(_masked_weight(theta, mask, scale, None, x.dtype, weights))

    def library_weight_grads() -> tuple[Tensor, Tensor, Tensor]:
        grad_weight = _matrix(grad).t().mm(_matrix(x))
        return _passes.weight_grads(grad_weight, theta, mask, scale, needs[1:4], weights)

    grad_x, grads = _absent(x), (_absent(theta), _absent(mask), _absent(theta))
    fuse = _passes.may_fuse(backend, chosen, _matrix(x))
    tf32 = _linear_tf32(x)
    grad4, x4, theta4, mask4 = map(_as_conv, (grad, x, theta, mask))
    if need_x and fuse:
        grad_x = _passes.either(
            "input gradient",
            backend,
            x4,
            theta4,
            _EVERYWHERE,
            tf32,
            lambda: _passes.fused_input_grad(
                grad4, theta4, mask4, scale, x4.shape, _EVERYWHERE, tf32, torch.channels_last
            ).view(x.shape),
            library_input_grad,
        )
    elif need_x:
        grad_x = library_input_grad()
    if need_mask and fuse and not (need_theta or need_scale):
        grad_mask = _passes.either(
            "mask gradient",
            backend,
            x4,
            theta4,
            _EVERYWHERE,
            tf32,
            lambda: _passes.fused_mask_grad(
                grad4, x4, theta4, mask4, scale, _EVERYWHERE, tf32
            ).view(mask.shape),
            lambda: library_weight_grads()[1],
        )
        grads = (grads[0], grad_mask, grads[2])
    elif need_theta or need_mask or need_scale:
        grads = library_weight_grads()
    return grad_x, *grads, _matrix(grad).sum(dim=0) if need_bias else _absent(x)


@masked_linear_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    needs: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    made = (
        x.new_empty(x.shape),
        theta.new_empty(theta.shape),
        torch.empty_like(_ordered(theta), dtype=mask.dtype),
        _absent(theta) if scale is None else scale.new_empty(scale.shape),
        x.new_empty(theta.shape[0]),
    )
    absent = (_absent(x), _absent(theta), _absent(mask), _absent(theta), _absent(x))
    return tuple(  # type: ignore[return-value]
        value if need else nothing for need, value, nothing in zip(needs, made, absent, strict=True)
    )


def _masked_linear_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, theta, mask, scale, _, ctx.backend = inputs
    ctx.save_for_backward(x, theta, mask, scale)


def _masked_linear_autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:5])
    grads = torch.ops.awm_kernels.masked_linear_backward(
        grad, *ctx.saved_tensors, needs, ctx.backend
    )
    return (*(g if need else None for g, need in zip(grads, needs, strict=True)), None)


masked_linear.register_autograd(_masked_linear_autograd, setup_context=_masked_linear_setup)
