"""Schemas, fakes, autograd and choice of kernels of masked_conv and masked_linear.

Each has three passes: forward, input gradient, mask gradient. A pass runs either fused (Triton: W
exists tile by tile only) or as the library's convolution or product on a W from `masked_weight`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from awm_kernels import _choice
from awm_kernels import _reference as reference
from awm_kernels._backend import backends, choose
from awm_kernels._ops import _absent, _kernel, _masked_weight, _ordered, _row_sums, _scale


class _Place(NamedTuple):
    """Where the window goes, over two dimensions."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


def _place_2d(stride: list[int], padding: list[int], dilation: list[int], groups: int) -> _Place:
    if len(stride) == 1:
        return _Place([1, *stride], [0, *padding], [1, *dilation], groups)
    return _Place(stride, padding, dilation, groups)


def _as_2d(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(2) if tensor.dim() == 3 else tensor


def _may_fuse(backend: str, chosen: str, x: Tensor) -> bool:
    """Whether a call may run on the fused kernels, from the backend asked for and the one chosen.

    They have no float64, no third dimension, and CUDA tensors only (or Triton's interpreter).
    """
    if x.dtype == torch.float64 or x.dim() == 5:
        return False
    if backend == "auto":
        return x.is_cuda and chosen != "reference" and backends()["triton"].available
    return backend == "triton"


def _for_weights(backend: str, chosen: str) -> str:
    """The backend of `masked_weight` in a layer: its own choice, where there is one."""
    return "auto" if backend == "auto" and chosen != "reference" else chosen


def _either(
    kernel: str,
    backend: str,
    x: Tensor,
    theta: Tensor,
    place: _Place,
    tf32: bool,
    fused: _choice.Run,
    library: _choice.Run,
) -> Tensor:
    """One pass that may be fused, in the two-dimensional form: measured if `backend` is auto."""
    if backend != "auto":
        return fused()
    last = (_memory_format(x), _memory_format(theta))
    problem = _choice.Problem(
        kernel,
        tuple(x.shape),
        tuple(theta.shape),
        x.dtype,
        theta.dtype,
        (last[0] == torch.channels_last, last[1] == torch.channels_last),
        tuple(place.stride),
        tuple(place.padding),
        tuple(place.dilation),
        place.groups,
        tf32,
        x.device,
    )
    return _choice.run(problem, fused, library)


def _memory_format(*tensors: Tensor) -> torch.memory_format:
    """channels_last if one of the tensors is: the rule that the library's convolution follows."""
    formats = [torch._prims_common.suggest_memory_format(tensor) for tensor in tensors]
    return torch.channels_last if torch.channels_last in formats else torch.contiguous_format


def _conv_tf32(x: Tensor) -> bool:
    # Not `allow_tf32`: reading that fails where the newer settings were used.
    return x.dtype == torch.float32 and torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]


def _linear_tf32(x: Tensor) -> bool:
    return x.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"


def _fused_forward(
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    place: _Place,
    tf32: bool,
    memory_format: torch.memory_format,
) -> Tensor:
    bias = None if bias is None else bias.contiguous()
    scale = _scale(scale, theta.dtype)
    forward = _kernel("triton", "masked_conv_forward")
    y: Tensor = forward(x, _ordered(theta), mask, scale, bias, *place, tf32, memory_format)
    return y


def _fused_input_grad(
    grad: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    shape: torch.Size,
    place: _Place,
    tf32: bool,
    memory_format: torch.memory_format,
) -> Tensor:
    scale = _scale(scale, theta.dtype)
    input_grad = _kernel("triton", "masked_conv_input_grad")
    dx: Tensor = input_grad(grad, _ordered(theta), mask, scale, shape, *place, tf32, memory_format)
    return dx


def _fused_mask_grad(
    grad: Tensor,
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    place: _Place,
    tf32: bool,
) -> Tensor:
    scale = _scale(scale, theta.dtype)
    mask_grad = _kernel("triton", "masked_conv_mask_grad")
    dm: Tensor = mask_grad(grad, x, _ordered(theta), scale, *place, tf32)
    return dm.to(mask.dtype)


def _weight_grads(
    grad_weight: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    needs: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """dW → (dθ, dm, ds), each only if needed: the epilogue of the weight gradient."""
    need_theta, need_mask, need_scale = needs
    return (
        _masked_weight(grad_weight, mask, scale, None, theta.dtype, backend)
        if need_theta
        else _absent(theta),
        _masked_weight(theta, grad_weight, scale, None, mask.dtype, backend)
        if need_mask
        else _absent(mask),
        _row_sums(grad_weight * (mask * theta), None, scale)
        if need_scale and scale is not None
        else _absent(theta),
    )


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
    weights = _for_weights(backend, chosen)

    def library() -> Tensor:
        weight = _masked_weight(theta, mask, scale, None, x.dtype, weights)
        return reference.conv(x, weight, bias, stride, padding, dilation, groups)

    if not _may_fuse(backend, chosen, x):
        return library()
    place, tf32 = _place_2d(stride, padding, dilation, groups), _conv_tf32(x)
    x2, theta2 = _as_2d(x), _as_2d(theta)

    def fused() -> Tensor:
        form = _memory_format(x2, theta2)
        y = _fused_forward(x2, theta2, _as_2d(mask), scale, bias, place, tf32, form)
        return y.squeeze(2) if x.dim() == 3 else y

    return _either("forward", backend, x2, theta2, place, tf32, fused, library)


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
    weights = _for_weights(backend, chosen)

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
    if not _may_fuse(backend, chosen, x):
        grad_x, grad_weight, grad_bias = library(need_x, need_weight, need_bias)
    else:
        place, tf32 = _place_2d(stride, padding, dilation, groups), _conv_tf32(x)
        grad2, x2, theta2, mask2 = map(_as_2d, (grad, x, theta, mask))
        form = _memory_format(x2, theta2)
        if need_x:
            grad_x = _either(
                "input gradient",
                backend,
                x2,
                theta2,
                place,
                tf32,
                lambda: _fused_input_grad(
                    grad2, theta2, mask2, scale, x2.shape, place, tf32, form
                ).view(x.shape),
                lambda: _present(library(True, False, False)[0]),
            )
        if need_mask and not (need_theta or need_scale):
            grad_mask = _either(
                "mask gradient",
                backend,
                x2,
                theta2,
                place,
                tf32,
                lambda: _fused_mask_grad(grad2, x2, theta2, mask2, scale, place, tf32).view(
                    mask.shape
                ),
                lambda: _weight_grads(
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
        grads = _weight_grads(grad_weight, theta, mask, scale, needs[1:4], weights)
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


def _matrix(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def _as_conv(tensor: Tensor) -> Tensor:
    """(…, features) as (rows, features, 1, 1): a linear map is a 1x1 convolution."""
    return _matrix(tensor)[:, :, None, None]


_EVERYWHERE = _Place([1, 1], [0, 0], [1, 1], 1)


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
    weights = _for_weights(backend, chosen)

    def library() -> Tensor:
        weight = _masked_weight(theta, mask, scale, None, x.dtype, weights)
        return torch.nn.functional.linear(x, weight, bias)

    if not _may_fuse(backend, chosen, _matrix(x)):
        return library()
    tf32 = _linear_tf32(x)
    x4, theta4, mask4 = map(_as_conv, (x, theta, mask))

    def fused() -> Tensor:
        y = _fused_forward(x4, theta4, mask4, scale, bias, _EVERYWHERE, tf32, torch.channels_last)
        return y.view(*x.shape[:-1], theta.shape[0])

    return _either("forward", backend, x4, theta4, _EVERYWHERE, tf32, fused, library)


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
    weights = _for_weights(backend, chosen)

    def library_input_grad() -> Tensor:
        return grad.matmul(_masked_weight(theta, mask, scale, None, x.dtype, weights))

    def library_weight_grads() -> tuple[Tensor, Tensor, Tensor]:
        grad_weight = _matrix(grad).t().mm(_matrix(x))
        return _weight_grads(grad_weight, theta, mask, scale, needs[1:4], weights)

    grad_x, grads = _absent(x), (_absent(theta), _absent(mask), _absent(theta))
    fuse = _may_fuse(backend, chosen, _matrix(x))
    tf32 = _linear_tf32(x)
    grad4, x4, theta4, mask4 = map(_as_conv, (grad, x, theta, mask))
    if need_x and fuse:
        grad_x = _either(
            "input gradient",
            backend,
            x4,
            theta4,
            _EVERYWHERE,
            tf32,
            lambda: _fused_input_grad(
                grad4, theta4, mask4, scale, x4.shape, _EVERYWHERE, tf32, torch.channels_last
            ).view(x.shape),
            library_input_grad,
        )
    elif need_x:
        grad_x = library_input_grad()
    if need_mask and fuse and not (need_theta or need_scale):
        grad_mask = _either(
            "mask gradient",
            backend,
            x4,
            theta4,
            _EVERYWHERE,
            tf32,
            lambda: _fused_mask_grad(grad4, x4, theta4, mask4, scale, _EVERYWHERE, tf32).view(
                mask.shape
            ),
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
