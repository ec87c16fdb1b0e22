"""y = conv(x, s · (m ⊙ θ), b)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._common import compute_type, device_of, narrow
from . import depthwise, split
from .arithmetic import Arithmetic, arithmetic
from .blocks import depth_blocks, load_weight, multiply_add, pixels, taps_and_channels
from .geometry import Geometry, depth, geometry, in_vectors, like, vector_width
from .tiles import OUTPUT, Tile, candidates, pick

# Kernels aren't compiled anew for the value of these: layers differ in little else.
STRIDES = [f"{tensor}_{axis}" for tensor in ("x", "theta", "y") for axis in "ncoihw"]


@triton.jit(do_not_specialize=[*Geometry._fields, *STRIDES, "steps", "share_size"])
def _forward_kernel(
    x,
    theta,
    mask,
    scale,
    bias,
    y,
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
    x_n,
    x_c,
    x_h,
    x_w,
    theta_o,
    theta_i,
    theta_h,
    theta_w,
    y_n,
    y_c,
    y_h,
    y_w,
    steps,
    share_size,
    VECTOR: tl.constexpr,
    COMPUTE: tl.constexpr,
    DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """y (pixels × output channels) = x (pixels × taps and input channels) · W, one group a tile.

    In vectors, channels and strides come divided by VECTOR.
    """
    if VECTOR > 1:
        in_channels *= VECTOR
        out_channels *= VECTOR
        x_c = 1
        theta_i = 1
        y_c = 1
    columns = tl.cdiv(out_channels, BLOCK_N)
    column = tl.program_id(0) % (groups * columns)
    group = column // columns
    local = column % columns * BLOCK_N + tl.arange(0, BLOCK_N)
    channel = group * out_channels + local
    tile = tl.program_id(0) // (groups * columns)
    image, pixel = pixels(tile, out_height * out_width, BLOCK_M)
    top = pixel // out_width * stride_h - pad_h
    left = pixel % out_width * stride_w - pad_w
    x_rows = x + image * (x_n * VECTOR)
    x_rows += group * in_channels * x_c + top * (x_h * VECTOR) + left * (x_w * VECTOR)
    theta_columns = channel * (theta_o * VECTOR)
    inside = image < images

    taps = kernel_h * kernel_w
    first = tl.program_id(1) * steps
    last = tl.minimum(first + steps, depth_blocks(taps, in_channels, BLOCK_K, VECTOR))
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for block in range(first, last):
        tap, source, exists = taps_and_channels(block, taps, in_channels, BLOCK_K, VECTOR)
        tap_h = tap // kernel_w
        tap_w = tap % kernel_w
        down = tap_h * dilation_h
        right = tap_w * dilation_w
        row = top[:, None] + down[None, :]
        across = left[:, None] + right[None, :]
        valid = (row >= 0) & (row < height) & (across >= 0) & (across < width)
        x_columns = source * x_c + down * (x_h * VECTOR) + right * (x_w * VECTOR)
        values = tl.load(
            x_rows[:, None] + x_columns[None, :],
            mask=valid & inside[:, None] & exists[None, :],
            other=0,
        )
        theta_rows = source * theta_i + tap_h * (theta_h * VECTOR) + tap_w * (theta_w * VECTOR)
        weight = load_weight(
            theta,
            mask,
            theta_rows[:, None] + theta_columns[None, :],
            exists[:, None] & (local < out_channels)[None, :],
            COMPUTE,
        )
        total = multiply_add(values, narrow(weight, DTYPE), total, PRECISION)

    written = local < out_channels
    share = tl.program_id(1)
    if scale is not None:
        total *= tl.load(scale + channel, mask=written, other=0).to(tl.float32)[None, :]
    if bias is not None:
        once = written & (share == 0)
        total += tl.load(bias + channel, mask=once, other=0).to(tl.float32)[None, :]
    y_rows = y + share.to(tl.int64) * (share_size * VECTOR) + image * (y_n * VECTOR)
    y_rows += pixel // out_width * (y_h * VECTOR) + pixel % out_width * (y_w * VECTOR)
    tl.store(
        y_rows[:, None] + (channel * y_c)[None, :],
        narrow(total, y.dtype.element_ty),
        mask=inside[:, None] & written[None, :],
    )


def masked_conv_forward(
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    tf32: bool,
    memory_format: torch.memory_format,
) -> Tensor:
    """y for x (n, c, h, w), of x's dtype and in `memory_format`; θ is dense.

    `tf32` lets float32 products be rounded to 10 bits of mantissa on the way in.
    """
    how = arithmetic(tf32, x=x)
    place = geometry(x.shape, theta, stride, padding, dilation, groups)
    shape = (place.images, theta.shape[0], place.out_height, place.out_width)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)
    if y.numel() == 0:
        return y
    mask = like(mask, theta)
    with device_of(x):
        if place.depthwise:
            return depthwise.forward(x, theta, mask, scale, bias, y, place)
        return _forward(x, theta, mask, scale, bias, y, place, how)


def _forward(
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    y: Tensor,
    place: Geometry,
    how: Arithmetic,
) -> Tensor:
    vector = vector_width(place, x, theta, y)
    rows = place.images * place.out_height * place.out_width
    sizes = place.in_vectors(vector)

    def launch(tile: Tile) -> Tensor:
        columns = place.groups * triton.cdiv(place.out_channels, tile.n)
        tiles = triton.cdiv(rows, tile.m) * columns
        total = depth(place.taps, place.in_channels, tile.k, vector)
        steps = split.steps_per_share(tiles, total, x.device)
        shares = triton.cdiv(total, steps)
        target = split.shares_of(y, shares)
        _forward_kernel[(tiles, shares)](
            x,
            theta,
            mask,
            scale,
            bias,
            target,
            *sizes,
            *in_vectors(x, vector),
            *in_vectors(theta, vector),
            *in_vectors(y, vector),
            steps,
            y.numel() // vector if shares > 1 else 0,
            VECTOR=vector,
            COMPUTE=compute_type(theta.dtype),
            DTYPE=how.stored,
            PRECISION=how.precision,
            **tile.options(),
        )
        split.sum_shares(target, y)
        return y

    def tiles() -> list[Tile]:
        return candidates(OUTPUT[how.name, vector > 1], rows, place.out_channels)

    key = ("forward", place, how, vector, theta.dtype, x.device)
    return pick(key, tiles, launch, x.device)
