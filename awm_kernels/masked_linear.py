"""Linear maps whose weight carries an elementwise mask: x (m ⊙ θ)ᵀ + b."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor, nn

from awm_kernels import _check, _choice
from awm_kernels import _reference as reference
from awm_kernels._backend import choose
from awm_kernels._layout import absent, ordered, scale_for
from awm_kernels._registration import kernel
from awm_kernels.masked_weight import make_weight, weight_grads


def masked_linear(
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """`linear(x, s · (mask ⊙ theta), bias)`: `masked_conv2d` without a window.

    Args:
        x: (…, in).
        theta: frozen weight, (out, in).
        mask: same shape as `theta`.
        bias: (out,), of `x`'s dtype.
        scale: one factor per output, (out,).
        backend: as for `masked_conv2d`; tf32 where `torch.backends.cuda.matmul` allows it.

    Returns:
        (…, out) in `x.dtype`. Gradients only where required; the mask's is dW ⊙ theta · s.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
        NotImplementedError: an argument carries a forward-mode derivative.
    """
    optional = _check.present(scale=scale, bias=bias)
    _check.floating(x=x, theta=theta, mask=mask, **optional)
    _check.exactly(str, backend=backend)
    if theta.dim() != 2:
        raise ValueError(f"theta: expected 2 dimensions, got shape {tuple(theta.shape)}")
    if x.dim() < 1 or x.shape[-1] != theta.shape[1]:
        raise ValueError(f"x: expected {theta.shape[1]} features, got shape {tuple(x.shape)}")
    _check.same_shape("theta", theta, mask=mask)
    _check.shape("scale", scale, (theta.shape[0],))
    _check.shape("bias", bias, (theta.shape[0],))
    _check.same_device("x", x, theta=theta, mask=mask, scale=scale, bias=bias)
    if bias is not None and bias.dtype != x.dtype:
        raise TypeError(f"bias: expected x's dtype {x.dtype}, got {bias.dtype}")
    _check.reverse_only("masked_linear", x=x, theta=theta, mask=mask, **optional)
    y: Tensor = _op(x, theta, mask, scale, bias, backend)
    return y


class MaskedLinear(nn.Module):
    """`torch.nn.Linear` with frozen `weight` and `bias` (buffers) and a learned `mask`."""

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._take(nn.Linear(in_features, out_features, bias, device, dtype))

    def _take(self, linear: nn.Linear) -> None:
        self.register_buffer("weight", linear.weight.detach())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())
        self.mask = nn.Parameter(torch.ones_like(self.weight))
        self.train(linear.training)

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> Self:
        """A masked twin of `linear` (mask of ones) that shares its weight and bias storage."""
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"linear: expected torch.nn.Linear, got {type(linear).__name__}")
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        module._take(linear)
        return module

    def folded_weight(self) -> Tensor:
        """mask ⊙ weight, detached: what a plain Linear needs to behave the same."""
        return self.mask.detach() * self.weight

    def forward(self, x: Tensor) -> Tensor:
        return masked_linear(x, self.weight, self.mask, self.bias)


# A linear map is this convolution.
_POINTWISE = _choice.ConvParams([1, 1], [0, 0], [1, 1], 1)


def _tf32(x: Tensor) -> bool:
    return x.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"


def _matrix(tensor: Tensor) -> Tensor:
    rows = math.prod(tensor.shape[:-1])  # -1 would not do: it may be 0 features
    return tensor.reshape(rows, tensor.shape[-1])


def _fused(name: str, *arguments: Any) -> Tensor:
    made: Tensor = kernel("masked_linear", name, "triton")(*arguments)
    return made


@torch.library.custom_op("awm_kernels::masked_linear", mutates_args=())
def _op(
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    backend: str,
) -> Tensor:
    chosen = choose(backend, x, theta, mask, op="masked_linear")
    if chosen == "reference":
        return reference.masked_linear(x, theta, mask, scale, bias)
    weights = _choice.for_weights(backend, chosen)

    def library() -> Tensor:
        weight = make_weight(theta, mask, scale, None, x.dtype, weights)
        return nn.functional.linear(x, weight, bias)

    rows, tf32 = _matrix(x), _tf32(x)
    if not _choice.may_fuse(backend, chosen, rows):
        return library()

    def fused() -> Tensor:
        added = None if bias is None else bias.contiguous()
        factors = (ordered(theta), mask, scale_for(theta, scale))
        y = _fused("masked_linear_forward", rows, *factors, added, tf32)
        return y.view(*x.shape[:-1], theta.shape[0])

    return _choice.either("forward", backend, rows, theta, _POINTWISE, tf32, fused, library)


@_op.register_fake
def _(x: Tensor, theta: Tensor, *_: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], theta.shape[0])


@torch.library.custom_op("awm_kernels::masked_linear_backward", mutates_args=())
def _backward_op(
    grad: Tensor,
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    needs: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    need_x, need_theta, need_mask, need_scale, need_bias = needs
    chosen = choose(backend, x, theta, mask, op="masked_linear")
    weights = _choice.for_weights(backend, chosen)
    grad_rows, rows, tf32 = _matrix(grad), _matrix(x), _tf32(x)

    def library_input_grad() -> Tensor:
        return grad.matmul(make_weight(theta, mask, scale, None, x.dtype, weights))

    def library_weight_grads() -> tuple[Tensor, Tensor, Tensor]:
        grad_weight = grad_rows.t().mm(rows)
        return weight_grads(grad_weight, theta, mask, scale, needs[1:4], weights)

    def fused_input_grad() -> Tensor:
        factors = (ordered(theta), mask, scale_for(theta, scale))
        return _fused("masked_linear_input_grad", grad_rows, *factors, tf32).view(x.shape)

    def fused_mask_grad() -> Tensor:
        factors = (ordered(theta), scale_for(theta, scale))
        return _fused("masked_linear_mask_grad", grad_rows, rows, *factors, tf32).to(mask.dtype)

    fuse = _choice.may_fuse(backend, chosen, rows)
    shapes = (backend, rows, theta, _POINTWISE, tf32)
    grad_x, grads = absent(x), (absent(theta), absent(mask), absent(theta))
    if need_x and fuse:
        grad_x = _choice.either("input gradient", *shapes, fused_input_grad, library_input_grad)
    elif need_x:
        grad_x = library_input_grad()
    if need_mask and fuse and not (need_theta or need_scale):
        grad_mask = _choice.either(
            "mask gradient", *shapes, fused_mask_grad, lambda: library_weight_grads()[1]
        )
        grads = (grads[0], grad_mask, grads[2])
    elif need_theta or need_mask or need_scale:
        grads = library_weight_grads()
    return grad_x, *grads, grad_rows.sum(dim=0) if need_bias else absent(x)


@_backward_op.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    needs: list[bool],
    backend: str,
) -> tuple[Tensor, ...]:
    made = (
        x.new_empty(x.shape),
        theta.new_empty(theta.shape),
        torch.empty_like(ordered(theta), dtype=mask.dtype),
        absent(theta) if scale is None else scale.new_empty(scale.shape),
        x.new_empty(theta.shape[0]),
    )
    nothing = (absent(x), absent(theta), absent(mask), absent(theta), absent(x))
    return tuple(
        value if need else without
        for need, value, without in zip(needs, made, nothing, strict=True)
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, theta, mask, scale, _, ctx.backend = inputs
    ctx.save_for_backward(x, theta, mask, scale)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:5])
    grads = torch.ops.awm_kernels.masked_linear_backward(
        grad, *ctx.saved_tensors, needs, ctx.backend
    )
    return (*(g if need else None for g, need in zip(grads, needs, strict=True)), None)


_op.register_autograd(_backward, setup_context=_setup)
