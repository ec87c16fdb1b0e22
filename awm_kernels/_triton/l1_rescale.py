"""Rows into the L1 ball by rescaling."""

from __future__ import annotations

from torch import Tensor

from ._l1_row import launch


def l1_rescale_(delta: Tensor, radius: Tensor) -> None:
    """Each row v of `delta` (rows, n) becomes v · min(1, radius / ‖v‖₁)."""
    launch(delta, None, radius, 0.0, rescale=True, project=False)
