"""Tile sizes: a short fixed list per arithmetic, the fastest of which is measured per shape."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from awm_kernels import _timing

MOST = 4  # candidates a shape


class Tile(NamedTuple):
    """Rows, columns and depth of the product that one program makes, and how it is compiled."""

    m: int
    n: int
    k: int
    warps: int
    stages: int

    def options(self) -> dict[str, int]:
        return {
            "BLOCK_M": self.m,
            "BLOCK_N": self.n,
            "BLOCK_K": self.k,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


# By (arithmetic, whether channels run along memory). The first that fits a shape is its default.
OUTPUT = {
    ("half", True): (
        Tile(128, 64, 64, 4, 3),
        Tile(64, 64, 64, 4, 3),
        Tile(128, 128, 32, 8, 4),
        Tile(256, 64, 32, 8, 3),
        Tile(128, 32, 64, 4, 3),
        Tile(128, 16, 64, 4, 3),
    ),
    ("tf32", True): (
        Tile(128, 64, 32, 4, 3),
        Tile(64, 64, 32, 4, 3),
        Tile(128, 128, 32, 8, 3),
        Tile(128, 32, 32, 4, 3),
        Tile(128, 16, 32, 4, 3),
    ),
    ("float", True): (Tile(64, 64, 16, 8, 2), Tile(32, 16, 16, 4, 2)),
    ("half", False): (Tile(64, 64, 32, 8, 2), Tile(64, 16, 32, 4, 2)),
    ("tf32", False): (Tile(64, 64, 32, 8, 2), Tile(64, 16, 32, 4, 2)),
    ("float", False): (Tile(64, 64, 16, 8, 2), Tile(32, 16, 16, 4, 2)),
}
WEIGHT = {
    ("half", True): (
        Tile(64, 64, 64, 4, 3),
        Tile(128, 64, 64, 4, 3),
        Tile(128, 128, 64, 8, 3),
        Tile(32, 32, 64, 4, 3),
        Tile(16, 16, 64, 4, 3),
    ),
    ("tf32", True): (
        Tile(64, 64, 32, 4, 3),
        Tile(128, 64, 32, 4, 3),
        Tile(32, 32, 32, 4, 3),
        Tile(16, 16, 32, 4, 3),
    ),
    ("float", True): (Tile(64, 64, 16, 8, 2), Tile(16, 16, 16, 4, 2)),
    ("half", False): (Tile(64, 32, 32, 4, 2), Tile(16, 16, 32, 4, 2)),
    ("tf32", False): (Tile(64, 32, 32, 4, 2), Tile(16, 16, 32, 4, 2)),
    ("float", False): (Tile(64, 32, 16, 4, 2), Tile(16, 16, 16, 4, 2)),
}
# BLOCK_M pixels of BLOCK_N channels each; nothing is multiplied as matrices.
DEPTHWISE = (Tile(32, 64, 1, 4, 3), Tile(16, 32, 1, 4, 3))

_chosen: dict[Hashable, Tile] = {}


def candidates(tiles: tuple[Tile, ...], rows: int, columns: int) -> list[Tile]:
    """Those that hardly work outside a (rows, columns) result, at most `MOST`."""

    def covered(tile: Tile) -> int:
        return triton.cdiv(rows, tile.m) * tile.m * triton.cdiv(columns, tile.n) * tile.n

    least = min(map(covered, tiles))
    return [tile for tile in tiles if covered(tile) <= 1.25 * least][:MOST]


def pick(
    key: Hashable,
    tiles: Callable[[], list[Tile]],
    launch: Callable[[Tile], Tensor],
    device: torch.device,
) -> Tensor:
    """`launch` with the one of `tiles` that was fastest for `key`, measured at the first call.

    Where nothing may be measured (see `_timing.allowed`) and nothing was, the first one is used.
    """
    if key not in _chosen and _timing.allowed(device):
        fitting = [tile for tile in tiles() if _launches(launch, tile)]
        times = _timing.device_times([partial(launch, tile) for tile in fitting], device)
        _chosen[key] = fitting[times.index(min(times))]
    return launch(_chosen[key] if key in _chosen else tiles()[0])


def _launches(launch: Callable[[Tile], Tensor], tile: Tile) -> bool:
    """Whether this GPU has the shared memory and registers for it."""
    try:
        launch(tile)
    except triton.runtime.errors.OutOfResources:
        return False
    return True
