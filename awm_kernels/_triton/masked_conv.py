"""Masked convolution over two spatial dimensions as an implicit matrix product.

W = s · (m ⊙ θ) exists only tile by tile, rounded once to x's dtype as it is loaded. Inside the
reduction the channel runs fastest, so channels_last activations are read along memory; every tensor
comes with its strides, so any layout works. Offsets are a row part in 64 bits and a column part
in 32: one image, and one weight, has fewer than 2³¹ elements; a batch may have more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import compute_type, device_of, multiply_add, narrow

SMALLEST_TILE = 16
_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def _load_weight(
    theta, mask, scale, offset, channel, valid, COMPUTE: tl.constexpr, DTYPE: tl.constexpr
):
    """A tile of W; `channel` is the output channel of its elements."""
    weight = tl.load(mask + offset, mask=valid, other=0).to(COMPUTE)
    weight *= tl.load(theta + offset, mask=valid, other=0).to(COMPUTE)
    if scale is not None:
        weight *= tl.load(scale + channel, mask=valid, other=0).to(COMPUTE)
    return narrow(weight, DTYPE)


@triton.jit
def _pixels(tile, size, BLOCK: tl.constexpr):
    """(image, pixel in it) of each of a tile's rows, with one 64-bit division for all of them."""
    start = tile.to(tl.int64) * BLOCK
    image = start // size
    pixel = (start - image * size).to(tl.int32) + tl.arange(0, BLOCK)
    return image + pixel // size, pixel % size


@triton.jit
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
    column_tiles,
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
    pad_h,
    pad_w,
    dilation_h,
    dilation_w,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    COMPUTE: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """y (pixels × output channels) = x (pixels × taps and input channels) · W, one group a tile."""
    columns = tl.cdiv(out_channels, BLOCK_N)
    tile = tl.program_id(0) % column_tiles
    group = tile // columns
    local = tile % columns * BLOCK_N + tl.arange(0, BLOCK_N)
    channel = group * out_channels + local
    image, pixel = _pixels(tl.program_id(0) // column_tiles, out_height * out_width, BLOCK_M)
    out_row = pixel // out_width
    out_column = pixel % out_width
    top = out_row * STRIDE_H - pad_h
    left = out_column * STRIDE_W - pad_w
    x_rows = x + image * x_n + (group * in_channels * x_c + top * x_h + left * x_w)
    inside = image < images

    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    depth = KERNEL_H * KERNEL_W * in_channels
    for start in range(0, depth, BLOCK_K):
        index = start + tl.arange(0, BLOCK_K)
        source = index % in_channels
        tap = index // in_channels
        tap_h = tap // KERNEL_W
        tap_w = tap % KERNEL_W
        row = top[:, None] + (tap_h * dilation_h)[None, :]
        column = left[:, None] + (tap_w * dilation_w)[None, :]
        valid = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        valid = valid & inside[:, None] & (index < depth)[None, :]
        x_columns = source * x_c + tap_h * dilation_h * x_h + tap_w * dilation_w * x_w
        values = tl.load(x_rows[:, None] + x_columns[None, :], mask=valid, other=0)
        weight = _load_weight(
            theta,
            mask,
            scale,
            (source * theta_i + tap_h * theta_h + tap_w * theta_w)[:, None]
            + (channel * theta_o)[None, :],
            channel[None, :],
            (index < depth)[:, None] & (local < out_channels)[None, :],
            COMPUTE,
            DTYPE,
        )
        total = multiply_add(values, weight, total)

    if bias is not None:
        total += tl.load(bias + channel, mask=local < out_channels, other=0).to(tl.float32)[None, :]
    y_rows = y + image * y_n + (out_row * y_h + out_column * y_w)
    tl.store(
        y_rows[:, None] + (channel * y_c)[None, :],
        narrow(total, DTYPE),
        mask=inside[:, None] & (local < out_channels)[None, :],
    )


@triton.jit
def _input_grad_kernel(
    grad,
    theta,
    mask,
    scale,
    dx,
    images,
    height,
    width,
    out_height,
    out_width,
    in_channels,
    out_channels,
    column_tiles,
    grad_n,
    grad_c,
    grad_h,
    grad_w,
    theta_o,
    theta_i,
    theta_h,
    theta_w,
    dx_n,
    dx_c,
    dx_h,
    dx_w,
    pad_h,
    pad_w,
    dilation_h,
    dilation_w,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    COMPUTE: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """dx (pixels × input channels) = dy (pixels × taps and output channels) · Wᵀ."""
    columns = tl.cdiv(in_channels, BLOCK_N)
    tile = tl.program_id(0) % column_tiles
    group = tile // columns
    local = tile % columns * BLOCK_N + tl.arange(0, BLOCK_N)
    image, pixel = _pixels(tl.program_id(0) // column_tiles, height * width, BLOCK_M)
    in_row = pixel // width
    in_column = pixel % width
    bottom = in_row + pad_h
    right = in_column + pad_w
    grad_rows = grad + image * grad_n + group * out_channels * grad_c
    inside = image < images

    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    depth = KERNEL_H * KERNEL_W * out_channels
    for start in range(0, depth, BLOCK_K):
        index = start + tl.arange(0, BLOCK_K)
        source = index % out_channels
        tap = index // out_channels
        tap_h = tap // KERNEL_W
        tap_w = tap % KERNEL_W
        row = bottom[:, None] - (tap_h * dilation_h)[None, :]
        column = right[:, None] - (tap_w * dilation_w)[None, :]
        # Only every stride-th pixel met this tap. A negative dividend is excluded before its
        # quotient matters.
        valid = (row >= 0) & (row < out_height * STRIDE_H) & (row % STRIDE_H == 0)
        valid = valid & (column >= 0) & (column < out_width * STRIDE_W) & (column % STRIDE_W == 0)
        row = row // STRIDE_H
        column = column // STRIDE_W
        valid = valid & inside[:, None] & (index < depth)[None, :]
        offset = (source * grad_c)[None, :] + row * grad_h + column * grad_w
        values = tl.load(grad_rows[:, None] + offset, mask=valid, other=0)
        channel = group * out_channels + source
        weight = _load_weight(
            theta,
            mask,
            scale,
            (channel * theta_o + tap_h * theta_h + tap_w * theta_w)[:, None]
            + (local * theta_i)[None, :],
            channel[:, None],
            (index < depth)[:, None] & (local < in_channels)[None, :],
            COMPUTE,
            DTYPE,
        )
        total = multiply_add(values, weight, total)

    dx_rows = dx + image * dx_n + (in_row * dx_h + in_column * dx_w)
    tl.store(
        dx_rows[:, None] + ((group * in_channels + local) * dx_c)[None, :],
        narrow(total, DTYPE),
        mask=inside[:, None] & (local < in_channels)[None, :],
    )


@triton.jit
def _store_mask_grad(
    total,
    theta,
    scale,
    dm,
    channel,
    index,
    valid,
    in_channels,
    theta_o,
    theta_i,
    theta_h,
    theta_w,
    KERNEL_W: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """dm = dW ⊙ θ · s; `index` counts taps and input channels, the channel fastest."""
    tap = index // in_channels
    offset = channel * theta_o + index % in_channels * theta_i
    offset += tap // KERNEL_W * theta_h + tap % KERNEL_W * theta_w
    total = total.to(COMPUTE) * tl.load(theta + offset, mask=valid, other=0).to(COMPUTE)
    if scale is not None:
        total *= tl.load(scale + channel, mask=valid, other=0).to(COMPUTE)
    tl.store(dm + offset, narrow(total, dm.dtype.element_ty), mask=valid)


@triton.jit
def _mask_grad_kernel(
    grad,
    x,
    theta,
    scale,
    dm,
    partial,
    images,
    height,
    width,
    out_height,
    out_width,
    in_channels,
    out_channels,
    steps,
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
    pad_h,
    pad_w,
    dilation_h,
    dilation_w,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """dW (output channels × taps and input channels) = dyᵀ · x over one share of the pixels.

    One share in all: dm is written here. Several: each writes its sum to `partial`.
    """
    size = KERNEL_H * KERNEL_W * in_channels
    rows = tl.cdiv(out_channels, BLOCK_M)
    columns = tl.cdiv(size, BLOCK_N)
    group = tl.program_id(0) // (rows * columns)
    tile = tl.program_id(0) % (rows * columns)
    local = tile // columns * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = group * out_channels + local
    index = tile % columns * BLOCK_N + tl.arange(0, BLOCK_N)
    tap = index // in_channels
    tap_h = tap // KERNEL_W * dilation_h - pad_h
    tap_w = tap % KERNEL_W * dilation_w - pad_w
    source = group * in_channels + index % in_channels
    x_columns = source * x_c + tap_h * x_h + tap_w * x_w

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
        grad_columns = (
            grad + picture.to(tl.int64) * grad_n + (out_row * grad_h + out_column * grad_w)
        )
        grads = tl.load(
            grad_columns[None, :] + (channel * grad_c)[:, None],
            mask=inside[None, :] & (local < out_channels)[:, None],
            other=0,
        )
        row = (out_row * STRIDE_H)[:, None] + tap_h[None, :]
        column = (out_column * STRIDE_W)[:, None] + tap_w[None, :]
        valid = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        valid = valid & inside[:, None] & (index < size)[None, :]
        x_rows = (
            x
            + picture.to(tl.int64) * x_n
            + (out_row * STRIDE_H * x_h + out_column * STRIDE_W * x_w)
        )
        values = tl.load(x_rows[:, None] + x_columns[None, :], mask=valid, other=0)
        total = multiply_add(grads, values, total)
        pixel += BLOCK_K
        image += pixel // pixels
        pixel = pixel % pixels

    valid = (local < out_channels)[:, None] & (index < size)[None, :]
    if partial is not None:
        groups = tl.num_programs(0) // (rows * columns)
        share = tl.program_id(1).to(tl.int64) * groups * out_channels
        offset = (share + channel[:, None]) * size + index[None, :]
        tl.store(partial + offset, total, mask=valid)
    else:
        _store_mask_grad(
            total,
            theta,
            scale,
            dm,
            channel[:, None],
            index[None, :],
            valid,
            in_channels,
            theta_o,
            theta_i,
            theta_h,
            theta_w,
            KERNEL_W,
            COMPUTE,
        )


@triton.jit
def _sum_shares_kernel(
    partial,
    theta,
    scale,
    dm,
    shares,
    channels,
    size,
    in_channels,
    theta_o,
    theta_i,
    theta_h,
    theta_w,
    KERNEL_W: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dm from the partial weight gradients (shares, channels, size), added in a fixed order."""
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = offset < channels * size
    total = tl.zeros([BLOCK], tl.float32)
    for _ in range(shares):
        total += tl.load(partial + offset, mask=valid, other=0)
        partial += channels * size
    _store_mask_grad(
        total,
        theta,
        scale,
        dm,
        offset // size,
        offset % size,
        valid,
        in_channels,
        theta_o,
        theta_i,
        theta_h,
        theta_w,
        KERNEL_W,
        COMPUTE,
    )


def _stored_type(**tensors: Tensor) -> tl.dtype:
    """The one type that the activations are stored in."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _TYPES:
            raise TypeError(
                f"masked_conv (triton): expected {name} in float32, bfloat16 or float16, got "
                f"{tensor.dtype}; the reference backend takes every dtype"
            )
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) != 1:
        raise TypeError(
            f"masked_conv (triton): expected {' and '.join(tensors)} of one dtype, "
            f"got {[tensor.dtype for tensor in tensors.values()]}"
        )
    return _TYPES[dtypes.pop()]


def _tile(size: int, most: int) -> int:
    """A power of two that covers `size`, between what a product needs and `most`."""
    return max(SMALLEST_TILE, min(most, int(triton.next_power_of_2(size))))


def _tiles(rows: int, columns: int, depth: int, stored: tl.dtype) -> dict[str, int]:
    """Tile sizes and warps: float32 products run on the plain cores and need smaller tiles."""
    wide = stored == tl.float32
    block_m, block_n = _tile(rows, 64 if wide else 128), _tile(columns, 64)
    return {
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_K": _tile(depth, 16 if wide else 32),
        "num_warps": 8 if block_m * block_n >= (4096 if wide else 8192) else 4,
    }


def _memory_format(tensor: Tensor) -> torch.memory_format:
    last = tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _same_strides(theta: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Both with one layout, so that one set of offsets serves them."""
    if mask.stride() == theta.stride():
        return theta, mask
    return theta.contiguous(), mask.contiguous()


def _dense(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.contiguous()


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
) -> Tensor:
    """y = conv(x, s · (m ⊙ θ), b) for x (N, C, H, W), in x's dtype and memory format."""
    stored = _stored_type(x=x)
    images, _, height, width = x.shape
    channels, in_channels, kernel_h, kernel_w = theta.shape
    out_height = (height + 2 * padding[0] - dilation[0] * (kernel_h - 1) - 1) // stride[0] + 1
    out_width = (width + 2 * padding[1] - dilation[1] * (kernel_w - 1) - 1) // stride[1] + 1
    y = torch.empty(
        (images, channels, out_height, out_width),
        dtype=x.dtype,
        device=x.device,
        memory_format=_memory_format(x),
    )
    if y.numel() == 0:
        return y
    theta, mask = _same_strides(theta, mask)
    out_channels = channels // groups
    rows = images * out_height * out_width
    tiles = _tiles(rows, out_channels, kernel_h * kernel_w * in_channels, stored)
    column_tiles = groups * triton.cdiv(out_channels, tiles["BLOCK_N"])
    with device_of(x):
        _forward_kernel[(triton.cdiv(rows, tiles["BLOCK_M"]) * column_tiles,)](
            x,
            theta,
            mask,
            _dense(scale),
            _dense(bias),
            y,
            images,
            height,
            width,
            out_height,
            out_width,
            in_channels,
            out_channels,
            column_tiles,
            *x.stride(),
            *theta.stride(),
            *y.stride(),
            *padding,
            *dilation,
            STRIDE_H=stride[0],
            STRIDE_W=stride[1],
            KERNEL_H=kernel_h,
            KERNEL_W=kernel_w,
            COMPUTE=compute_type(theta.dtype),
            DTYPE=stored,
            **tiles,
        )
    return y


def masked_conv_input_grad(
    grad: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    x_shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The gradient for x, in grad's dtype and memory format."""
    stored = _stored_type(grad=grad)
    images, channels, height, width = x_shape
    _, _, kernel_h, kernel_w = theta.shape
    dx = torch.empty(
        tuple(x_shape), dtype=grad.dtype, device=grad.device, memory_format=_memory_format(grad)
    )
    if dx.numel() == 0:
        return dx
    theta, mask = _same_strides(theta, mask)
    in_channels = channels // groups
    out_channels = theta.shape[0] // groups
    rows = images * height * width
    tiles = _tiles(rows, in_channels, kernel_h * kernel_w * out_channels, stored)
    column_tiles = groups * triton.cdiv(in_channels, tiles["BLOCK_N"])
    with device_of(grad):
        _input_grad_kernel[(triton.cdiv(rows, tiles["BLOCK_M"]) * column_tiles,)](
            grad,
            theta,
            mask,
            _dense(scale),
            dx,
            images,
            height,
            width,
            grad.shape[2],
            grad.shape[3],
            in_channels,
            out_channels,
            column_tiles,
            *grad.stride(),
            *theta.stride(),
            *dx.stride(),
            *padding,
            *dilation,
            STRIDE_H=stride[0],
            STRIDE_W=stride[1],
            KERNEL_H=kernel_h,
            KERNEL_W=kernel_w,
            COMPUTE=compute_type(theta.dtype),
            DTYPE=stored,
            **tiles,
        )
    return dx


def _shares(tiles: int, steps: int, device: torch.device) -> int:
    """Among how many programs to share a tile's pixels, so that two waves fill the GPU."""
    wanted = 256
    if device.type == "cuda":
        wanted = 2 * torch.cuda.get_device_properties(device).multi_processor_count
    # A share of fewer steps would cost more to add up than it saves.
    return max(1, min(wanted // tiles, steps // 8))


def masked_conv_mask_grad(
    grad: Tensor,
    x: Tensor,
    theta: Tensor,
    scale: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The gradient for m, dW ⊙ θ · s, in θ's dtype and strides; dW itself is never rounded."""
    stored = _stored_type(grad=grad, x=x)
    dm = torch.empty_like(theta)
    if dm.numel() == 0 or grad.numel() == 0:
        return dm.zero_()
    if dm.stride() != theta.stride():  # θ is not dense
        theta = theta.contiguous()
        dm = torch.empty_like(theta)
    channels, in_channels, kernel_h, kernel_w = theta.shape
    images, _, out_height, out_width = grad.shape
    out_channels = channels // groups
    size = kernel_h * kernel_w * in_channels
    pixels = images * out_height * out_width
    blocks = _tiles(out_channels, size, pixels, stored)
    tiles = triton.cdiv(out_channels, blocks["BLOCK_M"]) * triton.cdiv(size, blocks["BLOCK_N"])
    tiles *= groups
    steps = triton.cdiv(pixels, blocks["BLOCK_K"])
    steps = triton.cdiv(steps, _shares(tiles, steps, x.device))
    shares = triton.cdiv(pixels, steps * blocks["BLOCK_K"])
    partial = None
    if shares > 1:
        partial = torch.empty((shares, channels, size), dtype=torch.float32, device=x.device)
    with device_of(x):
        _mask_grad_kernel[(tiles, shares)](
            grad,
            x,
            theta,
            _dense(scale),
            dm,
            partial,
            images,
            x.shape[2],
            x.shape[3],
            out_height,
            out_width,
            in_channels,
            out_channels,
            steps,
            *grad.stride(),
            *x.stride(),
            *theta.stride(),
            *padding,
            *dilation,
            STRIDE_H=stride[0],
            STRIDE_W=stride[1],
            KERNEL_H=kernel_h,
            KERNEL_W=kernel_w,
            COMPUTE=compute_type(theta.dtype),
            **blocks,
        )
        if partial is not None:
            _sum_shares_kernel[(triton.cdiv(channels * size, 256),)](
                partial,
                theta,
                _dense(scale),
                dm,
                shares,
                channels,
                size,
                in_channels,
                *theta.stride(),
                KERNEL_W=kernel_w,
                COMPUTE=compute_type(theta.dtype),
                BLOCK=256,
            )
    return dm
