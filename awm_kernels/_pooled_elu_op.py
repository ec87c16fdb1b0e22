"""Schema, fake, autograd and kernels of pooled_elu."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from awm_kernels import _reference as reference
from awm_kernels._backend import choose
from awm_kernels._ops import _kernel


def _shape(x: Tensor, window: int) -> tuple[int, int, int, int]:
    images, channels, height, width = x.shape
    return images, channels, height // window, width // window


def _empty(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _pixels_first(tensor: Tensor) -> Tensor:
    """(n, h, w, c), contiguous: the same memory if the tensor is channels_last."""
    return tensor.permute(0, 2, 3, 1).contiguous()


@torch.library.custom_op("awm_kernels::pooled_elu", mutates_args=())
def pooled_elu(x: Tensor, window: int, alpha: float, backend: str) -> Tensor:
    chosen = choose(backend, x, cpu_only=True)
    out = _empty(x, _shape(x, window))
    if out.numel() == 0:
        return out
    if chosen == "reference":
        return out.copy_(reference.pooled_elu(x, window, alpha))
    _kernel(chosen, "pooled_elu_out")(_pixels_first(x), window, alpha, out.permute(0, 2, 3, 1))
    return out


@pooled_elu.register_fake
def _(x: Tensor, window: int, alpha: float, backend: str) -> Tensor:
    return _empty(x, _shape(x, window))


@torch.library.custom_op("awm_kernels::pooled_elu_backward", mutates_args=())
def pooled_elu_backward(grad: Tensor, x: Tensor, window: int, alpha: float, backend: str) -> Tensor:
    chosen = choose(backend, grad, x, cpu_only=True)
    grad_x = _empty(x, x.shape)
    if grad.numel() == 0:
        return grad_x.zero_()
    if chosen == "reference":
        return grad_x.copy_(reference.pooled_elu_backward(grad, x, window, alpha))
    backward = _kernel(chosen, "pooled_elu_backward_out")
    at = grad_x.permute(0, 2, 3, 1)
    backward(_pixels_first(grad), _pixels_first(x), window, alpha, at)
    return grad_x


@pooled_elu_backward.register_fake
def _(grad: Tensor, x: Tensor, window: int, alpha: float, backend: str) -> Tensor:
    return _empty(x, x.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.window, ctx.alpha, ctx.backend = inputs
    ctx.save_for_backward(x)


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    grad_x = torch.ops.awm_kernels.pooled_elu_backward(
        grad, *ctx.saved_tensors, ctx.window, ctx.alpha, ctx.backend
    )
    return grad_x, None, None, None


pooled_elu.register_autograd(_autograd, setup_context=_setup)
