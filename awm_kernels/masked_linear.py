"""Linear maps whose weight carries an elementwise mask: x (m ⊙ θ)ᵀ + b."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from awm_kernels import _check, _linear_ops


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
    """
    _check.floating(x=x, theta=theta, mask=mask, scale=scale, bias=bias)
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
    y: Tensor = _linear_ops.masked_linear(x, theta, mask, scale, bias, backend)
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
