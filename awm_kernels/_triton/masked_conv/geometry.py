"""The sizes of a convolution, and how its tensors lie in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

VECTOR = 8  # elements: 16 bytes of bfloat16


class Geometry(NamedTuple):
    """Kernel arguments, in this order; channel counts are those of one group."""

    images: int
    height: int
    width: int
    out_height: int
    out_width: int
    in_channels: int
    out_channels: int
    groups: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int

    @property
    def taps(self) -> int:
        return self.kernel_h * self.kernel_w

    @property
    def depthwise(self) -> bool:
        return self.in_channels == self.out_channels == 1

    def in_vectors(self, vector: int) -> tuple[int, ...]:
        """The kernel arguments, with channels counted in vectors."""
        return tuple(
            self._replace(
                in_channels=self.in_channels // vector, out_channels=self.out_channels // vector
            )
        )


def depth(taps: int, channels: int, block: int, vector: int) -> int:
    """How many blocks cover a window: `blocks.depth_blocks` on the host."""
    if vector > 1:
        return int(taps * triton.cdiv(channels, block))
    return int(triton.cdiv(taps * channels, block))


def geometry(
    x_shape: Sequence[int],
    theta: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Geometry:
    """The geometry of conv2d on x (n, c, h, w) with θ (o, c/groups, kh, kw)."""
    images, _, height, width = x_shape
    channels, in_channels, kernel_h, kernel_w = theta.shape
    covered_h = dilation[0] * (kernel_h - 1) + 1
    covered_w = dilation[1] * (kernel_w - 1) + 1
    return Geometry(
        images=images,
        height=height,
        width=width,
        out_height=(height + 2 * padding[0] - covered_h) // stride[0] + 1,
        out_width=(width + 2 * padding[1] - covered_w) // stride[1] + 1,
        in_channels=in_channels,
        out_channels=channels // groups,
        groups=groups,
        kernel_h=kernel_h,
        kernel_w=kernel_w,
        stride_h=stride[0],
        stride_w=stride[1],
        pad_h=padding[0],
        pad_w=padding[1],
        dilation_h=dilation[0],
        dilation_w=dilation[1],
    )


def strides(tensor: Tensor) -> list[int]:
    """The strides of `tensor`, 0 where there is nothing to stride over."""
    return [
        0 if size == 1 else step for size, step in zip(tensor.shape, tensor.stride(), strict=True)
    ]


def vector_width(place: Geometry, *tensors: Tensor) -> int:
    """VECTOR where channels run along memory in whole vectors in every tensor, else 1."""
    if place.in_channels % VECTOR or place.out_channels % VECTOR:
        return 1
    for tensor in tensors:
        images, channels, rows, columns = strides(tensor)
        if channels != 1 or any(step % VECTOR for step in (images, rows, columns)):
            return 1
    return VECTOR


def in_vectors(tensor: Tensor, vector: int) -> list[int]:
    """Strides in units of `vector`, so that a kernel that multiplies them back knows a divisor.

    That of the channels is 1 where `vector` is not, and no kernel reads it there.
    """
    images, channels, rows, columns = strides(tensor)
    return [images // vector, channels, rows // vector, columns // vector]


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """`tensor`, copied unless it already lies like `model`, which is dense."""
    if strides(tensor) == strides(model):
        return tensor
    return torch.empty_like(model, dtype=tensor.dtype).copy_(tensor)
