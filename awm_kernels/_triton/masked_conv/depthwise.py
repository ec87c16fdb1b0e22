"""Depthwise convolutions: every channel by itself, so no matrix product, only memory traffic."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .._common import compute_type, narrow
from . import split
from .arithmetic import STORED
from .blocks import load_weight, pixels
from .geometry import Geometry, strides
from .tiles import DEPTHWISE, Tile, candidates, pick

# Strides of the activations stay specialised: with channels along memory they say so.
SIZES = [*Geometry._fields, "theta_c", "theta_h", "theta_w", "steps", "share_size"]


@triton.jit(do_not_specialize=SIZES)
def _depthwise_forward_kernel(
    x,
    theta,
    mask,
    scale,
    bias,
    y,
    channels,
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
    theta_c,
    theta_h,
    theta_w,
    y_n,
    y_c,
    y_h,
    y_w,
    COMPUTE: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    columns = tl.cdiv(channels, BLOCK_N)
    channel = tl.program_id(0) % columns * BLOCK_N + tl.arange(0, BLOCK_N)
    image, pixel = pixels(tl.program_id(0) // columns, out_height * out_width, BLOCK_M)
    top = pixel // out_width * stride_h - pad_h
    left = pixel % out_width * stride_w - pad_w
    exists = channel < channels
    inside = (image < images)[:, None] & exists[None, :]
    corner = x + (image * x_n + (top * x_h + left * x_w))[:, None] + (channel * x_c)[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for tap in range(kernel_h * kernel_w):
        tap_h = tap // kernel_w
        tap_w = tap % kernel_w
        row = top + tap_h * dilation_h
        across = left + tap_w * dilation_w
        valid = (row >= 0) & (row < height) & (across >= 0) & (across < width)
        place = tap_h * dilation_h * x_h + tap_w * dilation_w * x_w
        values = tl.load(corner + place, mask=valid[:, None] & inside, other=0)
        offset = channel * theta_c + tap_h * theta_h + tap_w * theta_w
        weight = load_weight(theta, mask, offset, exists, COMPUTE)
        if scale is not None:
            weight *= tl.load(scale + channel, mask=exists, other=0).to(COMPUTE)
        weight = narrow(weight, DTYPE)
        total += values.to(tl.float32) * weight.to(tl.float32)[None, :]
    if bias is not None:
        total += tl.load(bias + channel, mask=exists, other=0).to(tl.float32)[None, :]
    y_rows = y + (image * y_n + (pixel // out_width * y_h + pixel % out_width * y_w))
    tl.store(y_rows[:, None] + (channel * y_c)[None, :], narrow(total, DTYPE), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def _depthwise_input_grad_kernel(
    grad,
    theta,
    mask,
    scale,
    dx,
    channels,
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
    theta_c,
    theta_h,
    theta_w,
    dx_n,
    dx_c,
    dx_h,
    dx_w,
    COMPUTE: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    columns = tl.cdiv(channels, BLOCK_N)
    channel = tl.program_id(0) % columns * BLOCK_N + tl.arange(0, BLOCK_N)
    image, pixel = pixels(tl.program_id(0) // columns, height * width, BLOCK_M)
    bottom = pixel // width + pad_h
    right = pixel % width + pad_w
    exists = channel < channels
    inside = (image < images)[:, None] & exists[None, :]
    picture = grad + image * grad_n
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for tap in range(kernel_h * kernel_w):
        tap_h = tap // kernel_w
        tap_w = tap % kernel_w
        row = bottom - tap_h * dilation_h
        across = right - tap_w * dilation_w
        # Only every stride-th pixel met this tap. A negative dividend is excluded before its
        # quotient matters.
        valid = (row >= 0) & (row < out_height * stride_h) & (row % stride_h == 0)
        valid &= (across >= 0) & (across < out_width * stride_w) & (across % stride_w == 0)
        place = picture + (row // stride_h * grad_h + across // stride_w * grad_w)
        values = tl.load(
            place[:, None] + (channel * grad_c)[None, :], mask=valid[:, None] & inside, other=0
        )
        offset = channel * theta_c + tap_h * theta_h + tap_w * theta_w
        weight = load_weight(theta, mask, offset, exists, COMPUTE)
        if scale is not None:
            weight *= tl.load(scale + channel, mask=exists, other=0).to(COMPUTE)
        weight = narrow(weight, DTYPE)
        total += values.to(tl.float32) * weight.to(tl.float32)[None, :]
    dx_rows = dx + (image * dx_n + (pixel // width * dx_h + pixel % width * dx_w))
    tl.store(dx_rows[:, None] + (channel * dx_c)[None, :], narrow(total, DTYPE), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def _depthwise_mask_grad_kernel(
    grad,
    x,
    theta,
    scale,
    dm,
    channels,
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
    theta_c,
    theta_h,
    theta_w,
    steps,
    share_size,
    COMPUTE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """dm of one tap of BLOCK_N channels, from one share of the pixels."""
    columns = tl.cdiv(channels, BLOCK_N)
    tap = tl.program_id(0) // columns
    channel = tl.program_id(0) % columns * BLOCK_N + tl.arange(0, BLOCK_N)
    exists = channel < channels
    down = tap // kernel_w * dilation_h - pad_h
    right = tap % kernel_w * dilation_w - pad_w
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for step in range(steps):
        tile = tl.program_id(1) * steps + step
        image, pixel = pixels(tile, out_height * out_width, BLOCK_M)
        out_row = pixel // out_width
        out_column = pixel % out_width
        row = out_row * stride_h + down
        across = out_column * stride_w + right
        valid = (row >= 0) & (row < height) & (across >= 0) & (across < width)
        valid = (valid & (image < images))[:, None] & exists[None, :]
        grad_rows = grad + (image * grad_n + (out_row * grad_h + out_column * grad_w))
        x_rows = x + (image * x_n + (row * x_h + across * x_w))
        grads = tl.load(grad_rows[:, None] + (channel * grad_c)[None, :], mask=valid, other=0)
        values = tl.load(x_rows[:, None] + (channel * x_c)[None, :], mask=valid, other=0)
        total += grads.to(tl.float32) * values.to(tl.float32)
    offset = channel * theta_c + tap // kernel_w * theta_h + tap % kernel_w * theta_w
    sums = tl.sum(total, axis=0).to(COMPUTE)
    sums *= tl.load(theta + offset, mask=exists, other=0).to(COMPUTE)
    if scale is not None:
        sums *= tl.load(scale + channel, mask=exists, other=0).to(COMPUTE)
    share = tl.program_id(1).to(tl.int64) * share_size
    tl.store(dm + share + offset, narrow(sums, dm.dtype.element_ty), mask=exists)


def _options(tile: Tile) -> dict[str, int]:
    return {
        "BLOCK_M": tile.m,
        "BLOCK_N": tile.n,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }


def _theta_strides(theta: Tensor) -> list[int]:
    channels, _, rows, columns = strides(theta)
    return [channels, rows, columns]


def forward(
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    y: Tensor,
    place: Geometry,
) -> Tensor:
    """Fills and returns `y`."""
    rows = place.images * place.out_height * place.out_width

    def launch(tile: Tile) -> Tensor:
        tiles = triton.cdiv(rows, tile.m) * triton.cdiv(place.groups, tile.n)
        _depthwise_forward_kernel[(tiles,)](
            x,
            theta,
            mask,
            scale,
            bias,
            y,
            place.groups,
            *place,
            *strides(x),
            *_theta_strides(theta),
            *strides(y),
            COMPUTE=compute_type(theta.dtype),
            DTYPE=STORED[y.dtype],
            **_options(tile),
        )
        return y

    key = ("depthwise forward", place, x.dtype, theta.dtype, x.device)
    return pick(key, lambda: candidates(DEPTHWISE, rows, place.groups), launch, x.device)


def input_grad(
    grad: Tensor, theta: Tensor, mask: Tensor, scale: Tensor | None, dx: Tensor, place: Geometry
) -> Tensor:
    """Fills and returns `dx`."""
    rows = place.images * place.height * place.width

    def launch(tile: Tile) -> Tensor:
        tiles = triton.cdiv(rows, tile.m) * triton.cdiv(place.groups, tile.n)
        _depthwise_input_grad_kernel[(tiles,)](
            grad,
            theta,
            mask,
            scale,
            dx,
            place.groups,
            *place,
            *strides(grad),
            *_theta_strides(theta),
            *strides(dx),
            COMPUTE=compute_type(theta.dtype),
            DTYPE=STORED[dx.dtype],
            **_options(tile),
        )
        return dx

    key = ("depthwise input gradient", place, grad.dtype, theta.dtype, grad.device)
    return pick(key, lambda: candidates(DEPTHWISE, rows, place.groups), launch, grad.device)


def mask_grad(
    grad: Tensor, x: Tensor, theta: Tensor, scale: Tensor | None, dm: Tensor, place: Geometry
) -> Tensor:
    """Fills and returns `dm`."""
    rows = place.images * place.out_height * place.out_width

    def launch(tile: Tile) -> Tensor:
        tiles = place.taps * triton.cdiv(place.groups, tile.n)
        total = triton.cdiv(rows, tile.m)
        steps = split.steps_per_share(tiles, total, x.device)
        shares = triton.cdiv(total, steps)
        target = split.shares_of(dm, shares)
        _depthwise_mask_grad_kernel[(tiles, shares)](
            grad,
            x,
            theta,
            scale,
            target,
            place.groups,
            *place,
            *strides(grad),
            *strides(x),
            *_theta_strides(theta),
            steps,
            dm.numel() if shares > 1 else 0,
            COMPUTE=compute_type(theta.dtype),
            **_options(tile),
        )
        split.sum_shares(target, dm)
        return dm

    key = ("depthwise mask gradient", place, grad.dtype, theta.dtype, x.device)
    return pick(key, lambda: candidates(DEPTHWISE, rows, place.groups), launch, x.device)
