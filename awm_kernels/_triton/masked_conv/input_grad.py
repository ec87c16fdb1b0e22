"""The gradient for x: dx = convᵀ(dy, s · (m ⊙ θ))."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

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

STRIDES = [f"{tensor}_{axis}" for tensor in ("grad", "theta", "dx") for axis in "ncoihw"]


@triton.jit
def _taps_that_meet(phase, kernel, stride, dilation, every):
    """(first, number) of the taps with (phase - tap · dilation) divisible by the stride.

    They are `every` taps apart. `phase` is where a pixel lies in the padded picture.
    """
    first = kernel
    for tap in range(every):
        first = tl.where((phase - tap * dilation) % stride == 0, tap, first)
    return first, tl.cdiv(tl.maximum(kernel - first, 0), every)


@triton.jit(
    do_not_specialize=[*Geometry._fields, *STRIDES, "every_h", "every_w", "steps", "share_size"]
)
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
    theta_o,
    theta_i,
    theta_h,
    theta_w,
    dx_n,
    dx_c,
    dx_h,
    dx_w,
    every_h,
    every_w,
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
    """dx (pixels × input channels) = dy (pixels × taps and output channels) · Wᵀ.

    A program's pixels lie `stride` apart, so that they all met the same taps.
    """
    if VECTOR > 1:
        in_channels *= VECTOR
        out_channels *= VECTOR
        grad_c = 1
        theta_i = 1
        dx_c = 1
    columns = tl.cdiv(in_channels, BLOCK_N)
    column = tl.program_id(0) % (groups * columns)
    group = column // columns
    local = column % columns * BLOCK_N + tl.arange(0, BLOCK_N)
    tile = tl.program_id(0) // (groups * columns)
    rows = tl.cdiv(height, stride_h)
    width_of_phase = tl.cdiv(width, stride_w)
    image, pixel = pixels(tile, rows * width_of_phase, BLOCK_M)
    phase_h = tl.program_id(2) // stride_w
    phase_w = tl.program_id(2) % stride_w
    place_h = pixel // width_of_phase
    place_w = pixel % width_of_phase
    inside = image < images
    first_h, taps_h = _taps_that_meet(phase_h + pad_h, kernel_h, stride_h, dilation_h, every_h)
    first_w, taps_w = _taps_that_meet(phase_w + pad_w, kernel_w, stride_w, dilation_w, every_w)
    grad_rows = grad + image * (grad_n * VECTOR)
    grad_rows += group * out_channels * grad_c
    grad_rows += place_h * (grad_h * VECTOR) + place_w * (grad_w * VECTOR)

    taps = taps_h * taps_w
    first = tl.program_id(1) * steps
    last = tl.minimum(first + steps, depth_blocks(taps, out_channels, BLOCK_K, VECTOR))
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for block in range(first, last):
        tap, source, exists = taps_and_channels(block, taps, out_channels, BLOCK_K, VECTOR)
        tap_h = first_h + tap // taps_w * every_h
        tap_w = first_w + tap % taps_w * every_w
        down = (phase_h + pad_h - tap_h * dilation_h) // stride_h
        right = (phase_w + pad_w - tap_w * dilation_w) // stride_w
        row = place_h[:, None] + down[None, :]
        across = place_w[:, None] + right[None, :]
        valid = (row >= 0) & (row < out_height) & (across >= 0) & (across < out_width)
        grad_columns = source * grad_c + down * (grad_h * VECTOR) + right * (grad_w * VECTOR)
        values = tl.load(
            grad_rows[:, None] + grad_columns[None, :],
            mask=valid & inside[:, None] & exists[None, :],
            other=0,
        )
        channel = group * out_channels + source
        theta_rows = channel * (theta_o * VECTOR)
        theta_rows += tap_h * (theta_h * VECTOR) + tap_w * (theta_w * VECTOR)
        weight = load_weight(
            theta,
            mask,
            theta_rows[:, None] + (local * theta_i)[None, :],
            exists[:, None] & (local < in_channels)[None, :],
            COMPUTE,
        )
        if scale is not None:
            weight *= tl.load(scale + channel, mask=exists, other=0).to(COMPUTE)[:, None]
        total = multiply_add(values, narrow(weight, DTYPE), total, PRECISION)

    in_row = place_h * stride_h + phase_h
    in_column = place_w * stride_w + phase_w
    inside = inside & (in_row < height) & (in_column < width)
    dx_rows = dx + tl.program_id(1).to(tl.int64) * (share_size * VECTOR) + image * (dx_n * VECTOR)
    dx_rows += in_row * (dx_h * VECTOR) + in_column * (dx_w * VECTOR)
    tl.store(
        dx_rows[:, None] + ((group * in_channels + local) * dx_c)[None, :],
        narrow(total, dx.dtype.element_ty),
        mask=inside[:, None] & (local < in_channels)[None, :],
    )


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
    tf32: bool,
    memory_format: torch.memory_format,
) -> Tensor:
    """dx of shape `x_shape`, of grad's dtype and in `memory_format`; θ is dense."""
    how = arithmetic(tf32, grad=grad)
    place = geometry(x_shape, theta, stride, padding, dilation, groups)
    dx = torch.empty(
        tuple(x_shape), dtype=grad.dtype, device=grad.device, memory_format=memory_format
    )
    if dx.numel() == 0:
        return dx
    mask = like(mask, theta)
    with device_of(grad):
        if place.depthwise:
            return depthwise.input_grad(grad, theta, mask, scale, dx, place)
        return _input_grad(grad, theta, mask, scale, dx, place, how)


def _input_grad(
    grad: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    dx: Tensor,
    place: Geometry,
    how: Arithmetic,
) -> Tensor:
    vector = vector_width(place, grad, theta, dx)
    phases = place.stride_h * place.stride_w
    every_h = place.stride_h // gcd(place.stride_h, place.dilation_h)
    every_w = place.stride_w // gcd(place.stride_w, place.dilation_w)
    taps = triton.cdiv(place.kernel_h, every_h) * triton.cdiv(place.kernel_w, every_w)
    rows = triton.cdiv(place.height, place.stride_h) * triton.cdiv(place.width, place.stride_w)
    rows *= place.images
    sizes = place.in_vectors(vector)

    def launch(tile: Tile) -> Tensor:
        columns = place.groups * triton.cdiv(place.in_channels, tile.n)
        tiles = triton.cdiv(rows, tile.m) * columns
        total = depth(taps, place.out_channels, tile.k, vector)
        steps = split.steps_per_share(tiles * phases, total, grad.device)
        shares = triton.cdiv(total, steps)
        target = split.shares_of(dx, shares)
        _input_grad_kernel[(tiles, shares, phases)](
            grad,
            theta,
            mask,
            scale,
            target,
            *sizes,
            *in_vectors(grad, vector),
            *in_vectors(theta, vector),
            *in_vectors(dx, vector),
            every_h,
            every_w,
            steps,
            dx.numel() // vector if shares > 1 else 0,
            VECTOR=vector,
            COMPUTE=compute_type(theta.dtype),
            DTYPE=how.stored,
            PRECISION=how.precision,
            **tile.options(),
        )
        split.sum_shares(target, dx)
        return dx

    def tiles() -> list[Tile]:
        return candidates(OUTPUT[how.name, vector > 1], rows, place.in_channels)

    key = ("input gradient", place, how, vector, theta.dtype, grad.device)
    return pick(key, tiles, launch, grad.device)
