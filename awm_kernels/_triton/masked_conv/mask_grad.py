"""The gradient for m: dm = dW ⊙ θ · s with dW = dyᵀ x."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._common import compute_type, device_of, narrow
from . import depthwise, split
from .arithmetic import Arithmetic, arithmetic
from .blocks import depth_blocks, multiply_add, taps_and_channels
from .geometry import Geometry, depth, geometry, in_vectors, vector_width
from .tiles import WEIGHT, Tile, candidates, pick

STRIDES = [f"{tensor}_{axis}" for tensor in ("grad", "x", "theta") for axis in "ncoihw"]


@triton.jit(do_not_specialize=[*Geometry._fields, *STRIDES, "steps", "share_size"])
def _mask_grad_kernel(
    grad,
    x,
    theta,
    scale,
    dm,
    images,
    height,
    width,
    out_height,
    out_width,
    in_channels,
    out_channels,
    groups,
    kernel_h,
    kernel_w,
    stride_h,
    stride_w,
    pad_h,
    pad_w,
    dilation_h,
    dilation_w,
    grad_n,
    grad_c,
    grad_h,
    grad_w,
    x_n,
    x_c,
    x_h,
    x_w,
    theta_o,
    theta_i,
    theta_h,
    theta_w,
    steps,
    share_size,
    VECTOR: tl.constexpr,
    COMPUTE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """dm (output channels × taps and input channels) from one share of the pixels."""
    if VECTOR > 1:
        in_channels *= VECTOR
        out_channels *= VECTOR
        grad_c = 1
        x_c = 1
        theta_i = 1
    taps = kernel_h * kernel_w
    rows = tl.cdiv(out_channels, BLOCK_M)
    columns = depth_blocks(taps, in_channels, BLOCK_N, VECTOR)
    group = tl.program_id(0) // (rows * columns)
    tile = tl.program_id(0) % (rows * columns)
    local = tile // columns * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = group * out_channels + local
    tap, source, exists = taps_and_channels(tile % columns, taps, in_channels, BLOCK_N, VECTOR)
    down = tap // kernel_w * dilation_h - pad_h
    right = tap % kernel_w * dilation_w - pad_w
    x_columns = (group * in_channels + source) * x_c
    x_columns += down * (x_h * VECTOR) + right * (x_w * VECTOR)

    # The share starts at this image and this pixel in it; both are carried along, in 32 bits.
    pixels = out_height * out_width
    start = tl.program_id(1).to(tl.int64) * steps * BLOCK_K
    image = (start // pixels).to(tl.int32)
    pixel = (start % pixels).to(tl.int32)
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for _ in range(steps):
        place = pixel + tl.arange(0, BLOCK_K)
        picture = image + place // pixels
        inside = picture < images
        out_row = place % pixels // out_width
        out_column = place % out_width
        grad_columns = grad + picture.to(tl.int64) * (grad_n * VECTOR)
        grad_columns += out_row * (grad_h * VECTOR) + out_column * (grad_w * VECTOR)
        grads = tl.load(
            grad_columns[None, :] + (channel * grad_c)[:, None],
            mask=inside[None, :] & (local < out_channels)[:, None],
            other=0,
        )
        row = (out_row * stride_h)[:, None] + down[None, :]
        across = (out_column * stride_w)[:, None] + right[None, :]
        valid = (row >= 0) & (row < height) & (across >= 0) & (across < width)
        x_rows = x + picture.to(tl.int64) * (x_n * VECTOR)
        x_rows += out_row * stride_h * (x_h * VECTOR) + out_column * stride_w * (x_w * VECTOR)
        values = tl.load(
            x_rows[:, None] + x_columns[None, :],
            mask=valid & inside[:, None] & exists[None, :],
            other=0,
        )
        total = multiply_add(grads, values, total, PRECISION)
        pixel += BLOCK_K
        image += pixel // pixels
        pixel = pixel % pixels

    theta_columns = source * theta_i
    theta_columns += tap // kernel_w * (theta_h * VECTOR) + tap % kernel_w * (theta_w * VECTOR)
    offset = (channel * (theta_o * VECTOR))[:, None] + theta_columns[None, :]
    valid = (local < out_channels)[:, None] & exists[None, :]
    total = total.to(COMPUTE) * tl.load(theta + offset, mask=valid, other=0).to(COMPUTE)
    if scale is not None:
        total *= tl.load(scale + channel, mask=local < out_channels, other=0).to(COMPUTE)[:, None]
    share = tl.program_id(1).to(tl.int64) * (share_size * VECTOR)
    tl.store(dm + share + offset, narrow(total, dm.dtype.element_ty), mask=valid)


def masked_conv_mask_grad(
    grad: Tensor,
    x: Tensor,
    theta: Tensor,
    scale: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    tf32: bool,
) -> Tensor:
    """dm in the dtype and strides of θ, which is dense; dW itself is never rounded."""
    how = arithmetic(tf32, grad=grad, x=x)
    dm = torch.empty_like(theta)
    if dm.numel() == 0 or grad.numel() == 0:
        return dm.zero_()
    place = geometry(x.shape, theta, stride, padding, dilation, groups)
    with device_of(x):
        if place.depthwise:
            return depthwise.mask_grad(grad, x, theta, scale, dm, place)
        return _mask_grad(grad, x, theta, scale, dm, place, how)


def _mask_grad(
    grad: Tensor,
    x: Tensor,
    theta: Tensor,
    scale: Tensor | None,
    dm: Tensor,
    place: Geometry,
    how: Arithmetic,
) -> Tensor:
    vector = vector_width(place, grad, x, theta)
    pixels = place.images * place.out_height * place.out_width
    sizes = place.in_vectors(vector)

    def launch(tile: Tile) -> Tensor:
        columns = depth(place.taps, place.in_channels, tile.n, vector)
        tiles = place.groups * triton.cdiv(place.out_channels, tile.m) * columns
        total = triton.cdiv(pixels, tile.k)
        steps = split.steps_per_share(tiles, total, x.device)
        shares = triton.cdiv(total, steps)
        target = split.shares_of(dm, shares)
        _mask_grad_kernel[(tiles, shares)](
            grad,
            x,
            theta,
            scale,
            target,
            *sizes,
            *in_vectors(grad, vector),
            *in_vectors(x, vector),
            *in_vectors(theta, vector),
            steps,
            dm.numel() // vector if shares > 1 else 0,
            VECTOR=vector,
            COMPUTE=compute_type(theta.dtype),
            PRECISION=how.precision,
            **tile.options(),
        )
        split.sum_shares(target, dm)
        return dm

    columns = place.in_channels if vector > 1 else place.taps * place.in_channels

    def tiles() -> list[Tile]:
        return candidates(WEIGHT[how.name, vector > 1], place.out_channels, columns)

    key = ("mask gradient", place, how, vector, theta.dtype, x.device)
    return pick(key, tiles, launch, x.device)
