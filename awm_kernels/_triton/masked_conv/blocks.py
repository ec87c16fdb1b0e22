"""What the kernels share: which pixels, taps and channels a program works on, tiles of W."""

from __future__ import annotations

import triton
import triton.language as tl

from .._common import INTERPRETED


@triton.jit
def load_weight(theta, mask, offset, valid, COMPUTE: tl.constexpr):
    """A tile of m ⊙ θ, not rounded yet."""
    weight = tl.load(mask + offset, mask=valid, other=0).to(COMPUTE)
    return weight * tl.load(theta + offset, mask=valid, other=0).to(COMPUTE)


@triton.jit
def pixels(tile, size, BLOCK: tl.constexpr):
    """(image, pixel in it) of each of a tile's rows, with one 64-bit division for all of them."""
    start = tile.to(tl.int64) * BLOCK
    image = start // size
    pixel = (start - image * size).to(tl.int32) + tl.arange(0, BLOCK)
    return image + pixel // size, pixel % size


@triton.jit
def depth_blocks(taps, channels, BLOCK: tl.constexpr, VECTOR: tl.constexpr):
    """The number of blocks that `taps_and_channels` divides a window into."""
    if VECTOR > 1:
        return taps * tl.cdiv(channels, BLOCK)
    else:
        return tl.cdiv(taps * channels, BLOCK)


@triton.jit
def taps_and_channels(block, taps, channels, BLOCK: tl.constexpr, VECTOR: tl.constexpr):
    """(tap, channel, whether it exists) of a block of the window.

    Vectors need consecutive channels of one tap; its number then has one element for all of them.
    Otherwise blocks run across taps, so that few channels fill them too.
    """
    lane = tl.arange(0, BLOCK)
    if VECTOR > 1:
        across = tl.cdiv(channels, BLOCK)
        channel = block % across * BLOCK + lane
        return tl.zeros([1], tl.int32) + block // across, channel, channel < channels
    else:
        index = block * BLOCK + lane
        return index // channels, index % channels, index < taps * channels


@triton.jit
def multiply_add(left, right, total, PRECISION: tl.constexpr):
    """total + left @ right in float32; the interpreter's product knows no bfloat16."""
    if INTERPRETED:
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, total, input_precision=PRECISION)
