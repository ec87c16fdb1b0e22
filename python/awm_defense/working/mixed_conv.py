"""Convolutions whose forward, input gradient and weight gradient each run in a dtype of their own.

On a CPU the library's bfloat16 passes can be much faster than float32, or much slower, layer by
layer and pass by pass.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Passes(NamedTuple):
    """The dtype that each pass of a layer computes in."""

    forward: torch.dtype
    input_grad: torch.dtype
    weight_grad: torch.dtype


def settings_of(conv: nn.Conv2d) -> tuple[Any, ...]:
    """What aten's convolution takes after x, weight and bias."""
    return (conv.stride, conv.padding, conv.dilation, False, (0, 0), conv.groups)


def conv_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, settings: tuple[Any, ...], dtype: torch.dtype
) -> Tensor:
    """The convolution computed in `dtype`, in x's dtype."""
    bias = None if bias is None else bias.to(dtype)
    y = torch.ops.aten.convolution(x.to(dtype), weight.to(dtype), bias, *settings)
    return y.to(x.dtype)


def conv_grads(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    settings: tuple[Any, ...],
    passes: Passes,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients for x and weight where `wanted`, each in the dtype of what it belongs to."""

    def grads(dtype: torch.dtype, mask: list[bool]) -> tuple[Tensor | None, ...]:
        return torch.ops.aten.convolution_backward(
            grad.to(dtype), x.to(dtype), weight.to(dtype), None, *settings, mask
        )

    grad_x = grad_weight = None
    if all(wanted) and passes.input_grad == passes.weight_grad:
        grad_x, grad_weight, _ = grads(passes.input_grad, [True, True, False])
    else:
        if wanted[0]:
            grad_x = grads(passes.input_grad, [True, False, False])[0]
        if wanted[1]:
            grad_weight = grads(passes.weight_grad, [False, True, False])[1]
    return (
        None if grad_x is None else grad_x.to(x.dtype),
        None if grad_weight is None else grad_weight.to(weight.dtype),
    )


class _MixedConvFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        settings: tuple[Any, ...],
        passes: Passes,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings, ctx.passes = settings, passes
        return conv_forward(x, weight, bias, settings, passes.forward)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[:2]
        x, weight = ctx.saved_tensors
        grads = conv_grads(grad, x, weight, ctx.settings, ctx.passes, wanted)
        return (*grads, None, None, None)


class MixedConv2d(nn.Conv2d):
    """A convolution with `passes`; its bias is frozen. Made by `use_passes`."""

    passes: Passes

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, out, h', w'), in x's dtype."""
        return _MixedConvFunction.apply(x, self.weight, self.bias, settings_of(self), self.passes)


def use_passes(module: nn.Module, passes: Mapping[str, Passes]) -> None:
    """Make the named convolutions of `module`, in place, run each pass in its dtype."""
    for name, wanted in passes.items():
        conv = module.get_submodule(name)
        conv.__class__ = MixedConv2d
        assert isinstance(conv, MixedConv2d)
        conv.passes = wanted
