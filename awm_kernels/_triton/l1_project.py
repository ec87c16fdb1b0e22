"""Rows into the L1 ball by Euclidean projection."""

from __future__ import annotations

from torch import Tensor

from ._l1_row import launch


def l1_project_(delta: Tensor, radius: Tensor) -> None:
    """Each row of `delta` (rows, n) becomes the nearest point with ‖v‖₁ ≤ radius."""
    launch(delta, None, radius, 0.0, rescale=False, project=True)
