"""Two ways into the L1 ball: rescaling (the AWM paper's) and Euclidean projection."""

from __future__ import annotations

import torch
from torch import Tensor

from awm_kernels import _check, _ops


def rows_and_radius(delta: Tensor, radius: float | Tensor, batched: bool) -> tuple[Tensor, Tensor]:
    """`delta` as a matrix with one row per ball (a view if contiguous), and a radius per row."""
    if batched and delta.dim() < 1:
        raise ValueError("delta: expected at least 1 dimension with batched=True, got 0")
    count = delta.shape[0] if batched else 1
    rows = delta.contiguous().view(count, -1) if delta.numel() else delta.new_empty(count, 0)
    if isinstance(radius, Tensor):
        _check.floating(radius=radius)
        _check.same_device("delta", delta, radius=radius)
        if radius.dim() > 0:
            _check.shape("radius", radius, (count,))
        return rows, radius.expand(count)
    _check.at_least("radius", radius, 0.0)
    dtype = torch.float64 if delta.dtype == torch.float64 else torch.float32
    return rows, torch.full((count,), radius, dtype=dtype, device=delta.device)


def l1_rescale_(
    delta: Tensor, radius: float | Tensor, *, batched: bool = False, backend: str = "auto"
) -> Tensor:
    """Δ ← Δ · min(1, τ / ‖Δ‖₁), in place (AWM paper, Algorithm 1, line 9).

    Keeps the direction of Δ; not the nearest point of the ball, for which see `l1_project_`.

    Args:
        delta: any shape, changed in place; float32, float64, bfloat16 or float16.
        radius: τ ≥ 0; with `batched`, also a tensor (rows,). A tensor's values are not checked
            (that would wait for the device).
        batched: whether each `delta[i]` is a trigger of its own.
        backend: "auto", "reference", "cpu", "cuda" or "triton".

    Returns:
        `delta`.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    _check.floating(delta=delta)
    rows, limit = rows_and_radius(delta, radius, batched)
    _ops.l1_rescale_(rows, limit, backend)
    return _put_back(delta, rows)


def l1_project_(
    delta: Tensor, radius: float | Tensor, *, batched: bool = False, backend: str = "auto"
) -> Tensor:
    """Δ ← argmin ‖Δ' − Δ‖₂ over ‖Δ'‖₁ ≤ τ, in place: soft-thresholding at the right level.

    Unlike `l1_rescale_` it sets small entries to zero. Newton's method on the threshold instead
    of sorting; the definition is Duchi et al., ICML 2008.

    Arguments, result and errors are those of `l1_rescale_`.
    """
    _check.floating(delta=delta)
    rows, limit = rows_and_radius(delta, radius, batched)
    _ops.l1_project_(rows, limit, backend)
    return _put_back(delta, rows)


def _put_back(delta: Tensor, rows: Tensor) -> Tensor:
    if not delta.is_contiguous():
        delta.copy_(rows.reshape(delta.shape))
    return delta
