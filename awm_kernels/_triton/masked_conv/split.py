"""Sharing one sum among programs, and adding the shares up in a fixed order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._common import narrow

BLOCK = 256
FEWEST_STEPS = 8  # a share of fewer would cost more to add up than it saves


@triton.jit
def _sum_shares_kernel(partial, out, shares, size, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for _ in range(shares):
        total += tl.load(partial + offset, mask=offset < size, other=0)
        partial += size
    tl.store(out + offset, narrow(total, out.dtype.element_ty), mask=offset < size)


def steps_per_share(tiles: int, steps: int, device: torch.device) -> int:
    """How many of its steps one program takes, so that `tiles` sums fill the GPU twice."""
    wanted = 256
    if device.type == "cuda":
        wanted = 2 * torch.cuda.get_device_properties(device).multi_processor_count
    shares = max(1, min(wanted // tiles, steps // FEWEST_STEPS))
    return int(triton.cdiv(steps, shares))


def shares_of(out: Tensor, shares: int) -> Tensor:
    """Where the programs write: `out` itself, or one float32 copy of it for each share."""
    if shares == 1:
        return out
    return torch.empty((shares, out.numel()), dtype=torch.float32, device=out.device)


def sum_shares(partial: Tensor, out: Tensor) -> None:
    """`out`, dense, from its shares: always added in the same order, so always the same bits."""
    if partial is not out:
        size = out.numel()
        _sum_shares_kernel[(triton.cdiv(size, BLOCK),)](partial, out, len(partial), size, BLOCK)
