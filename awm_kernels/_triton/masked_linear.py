"""A masked linear map as a masked convolution with a 1x1 window, by the kernels of that."""

from __future__ import annotations

import torch
from torch import Tensor

from .masked_conv import masked_conv_forward, masked_conv_input_grad, masked_conv_mask_grad

# stride, padding, dilation, groups
_POINTWISE = ([1, 1], [0, 0], [1, 1], 1)


def _images(matrix: Tensor) -> Tensor:
    """(rows, features) as images of one pixel, (rows, features, 1, 1)."""
    return matrix[:, :, None, None]


def masked_linear_forward(
    x: Tensor, theta: Tensor, mask: Tensor, scale: Tensor | None, bias: Tensor | None, tf32: bool
) -> Tensor:
    """x (rows, in) → (rows, out)."""
    images, weight, factor = map(_images, (x, theta, mask))
    y = masked_conv_forward(
        images, weight, factor, scale, bias, *_POINTWISE, tf32, torch.channels_last
    )
    return y.view(x.shape[0], theta.shape[0])


def masked_linear_input_grad(
    grad: Tensor, theta: Tensor, mask: Tensor, scale: Tensor | None, tf32: bool
) -> Tensor:
    """grad (rows, out) → dx (rows, in)."""
    images, weight, factor = map(_images, (grad, theta, mask))
    shape = torch.Size((grad.shape[0], theta.shape[1], 1, 1))
    dx = masked_conv_input_grad(
        images, weight, factor, scale, shape, *_POINTWISE, tf32, torch.channels_last
    )
    return dx.view(shape[:2])


def masked_linear_mask_grad(
    grad: Tensor, x: Tensor, theta: Tensor, scale: Tensor | None, tf32: bool
) -> Tensor:
    """grad (rows, out), x (rows, in) → dm (out, in)."""
    images, pixels, weight = map(_images, (grad, x, theta))
    dm = masked_conv_mask_grad(images, pixels, weight, scale, *_POINTWISE, tf32)
    return dm.view(theta.shape)
