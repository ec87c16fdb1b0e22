"""Δ ← Δ + lr·∇, then onto the L1 ball, in one launch."""

from __future__ import annotations

from torch import Tensor

from ._l1_row import launch


def trigger_step_(
    delta: Tensor, grad: Tensor, radius: Tensor, lr: float, project: bool, bound: bool
) -> None:
    """Rows of Δ (rows, n) ← Δ + lr·grad, then projected or rescaled if `bound`."""
    launch(delta, grad, radius, lr, rescale=bound and not project, project=bound and project)
