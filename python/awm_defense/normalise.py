"""From pixels to what a model is fed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Stat = float | Sequence[float] | Tensor | None


class Normalise(nn.Module):
    """(pixel − mean) / std, or nothing where neither is given.

    Args:
        mean, std: a number, or one a channel; both or neither.
        like: images (n,c,h,w) of the dtype and device to work in.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """

    def __init__(self, mean: Stat, std: Stat, like: Tensor) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise ValueError(f"mean, std: expected both or neither, got {mean} and {std}")
        self.mean, self.std = _stat("mean", mean, like), _stat("std", std, like)
        if self.std is not None and not (self.std > 0).all():
            raise ValueError(f"std: expected numbers > 0, got {std}")

    def forward(self, images: Tensor) -> Tensor:
        if self.mean is None or self.std is None:
            return images
        return (images - self.mean) / self.std


def _stat(name: str, value: Stat, like: Tensor) -> Tensor | None:
    """One number or one a channel, as (1, c or 1, 1, 1)."""
    if value is None:
        return None
    stat = torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1)
    if stat.shape[1] not in (1, like.shape[1]):
        raise ValueError(
            f"{name}: expected one number or one a channel, {like.shape[1]}, got {stat.shape[1]}"
        )
    if not stat.isfinite().all():
        raise ValueError(f"{name}: expected finite numbers, got {value}")
    return stat
