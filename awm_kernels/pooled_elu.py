"""ELU behind max-pooling, in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from awm_kernels import _check
from awm_kernels import _reference as reference
from awm_kernels._backend import choose
from awm_kernels._registration import define_kernel, kernel

define_kernel("pooled_elu_out(Tensor x, int window, float alpha, Tensor(a!) out) -> ()")
define_kernel(
    "pooled_elu_backward_out(Tensor grad, Tensor x, int window, float alpha, Tensor(a!) grad_x)"
    " -> ()"
)


def pooled_elu(x: Tensor, window: int = 2, *, alpha: float = 1.0, backend: str = "auto") -> Tensor:
    """`elu(max_pool2d(x, window), alpha)`, which is `max_pool2d(elu(x, alpha), window)`.

    A window of 1 is plain ELU, and `alpha=0` is ReLU. There are kernels for the CPU alone; on
    another device PyTorch's own ops run.

    Args:
        x: (n, c, h, w); fastest in channels_last.
        window: side of the square, 1 or 2, and its stride; what is left over at the bottom and at
            the right is not used.
        alpha: −alpha is the lower limit of the result; ≥ 0.
        backend: "auto", "reference" or "cpu".

    Returns:
        (n, c, h // window, w // window) in x's dtype, channels_last. The gradient goes to the first
        of the largest elements of each window, as in `max_pool2d`.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
        NotImplementedError: an argument carries a forward-mode derivative.
    """
    _check.floating(x=x)
    _check.exactly(str, backend=backend)
    if x.dim() != 4:
        raise ValueError(f"x: expected 4 dimensions (n, c, h, w), got shape {tuple(x.shape)}")
    window = _check.integer("window", window, 1)
    if window > 2:
        raise ValueError(f"window: expected 1 or 2, got {window!r}")
    alpha = _check.number("alpha", alpha, 0)
    _check.reverse_only("pooled_elu", x=x)
    y: Tensor = _op(x, window, alpha, backend)
    return y


def _shape(x: Tensor, window: int) -> tuple[int, int, int, int]:
    images, channels, height, width = x.shape
    return images, channels, height // window, width // window


def _empty(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _pixels_first(tensor: Tensor) -> Tensor:
    """(n, h, w, c), contiguous: the same memory if the tensor is channels_last."""
    return tensor.permute(0, 2, 3, 1).contiguous()


@torch.library.custom_op("awm_kernels::pooled_elu", mutates_args=())
def _op(x: Tensor, window: int, alpha: float, backend: str) -> Tensor:
    chosen = choose(backend, x, op="pooled_elu")
    out = _empty(x, _shape(x, window))
    if out.numel() == 0:
        return out
    if chosen == "reference":
        return out.copy_(reference.pooled_elu(x, window, alpha))
    run = kernel("pooled_elu", "pooled_elu_out", chosen)
    run(_pixels_first(x), window, alpha, out.permute(0, 2, 3, 1))
    return out


@_op.register_fake
def _(x: Tensor, window: int, alpha: float, backend: str) -> Tensor:
    return _empty(x, _shape(x, window))


@torch.library.custom_op("awm_kernels::pooled_elu_backward", mutates_args=())
def _backward_op(grad: Tensor, x: Tensor, window: int, alpha: float, backend: str) -> Tensor:
    chosen = choose(backend, grad, x, op="pooled_elu")
    grad_x = _empty(x, x.shape)
    if grad.numel() == 0:
        return grad_x.zero_()
    if chosen == "reference":
        return grad_x.copy_(reference.pooled_elu_backward(grad, x, window, alpha))
    backward = kernel("pooled_elu", "pooled_elu_backward_out", chosen)
    at = grad_x.permute(0, 2, 3, 1)
    backward(_pixels_first(grad), _pixels_first(x), window, alpha, at)
    return grad_x


@_backward_op.register_fake
def _(grad: Tensor, x: Tensor, window: int, alpha: float, backend: str) -> Tensor:
    return _empty(x, x.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.window, ctx.alpha, ctx.backend = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    grad_x = torch.ops.awm_kernels.pooled_elu_backward(
        grad, *ctx.saved_tensors, ctx.window, ctx.alpha, ctx.backend
    )
    return grad_x, None, None, None


_op.register_autograd(_backward, setup_context=_setup)
