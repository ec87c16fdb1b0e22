"""Into the L1 ball by Euclidean projection."""

from __future__ import annotations

from torch import Tensor

from awm_kernels import _l1_row
from awm_kernels._registration import in_place_op


def l1_project_(
    delta: Tensor, radius: float | Tensor, *, batched: bool = False, backend: str = "auto"
) -> Tensor:
    """Δ ← argmin ‖Δ' − Δ‖₂ over ‖Δ'‖₁ ≤ τ, in place: soft-thresholding at the right level.

    Unlike `l1_rescale_` it sets small entries to zero. Newton's method on the threshold instead
    of sorting; the definition is Duchi et al., ICML 2008.

    Arguments, result and errors are those of `l1_rescale_`.
    """
    return _l1_row.into_ball(_op, delta, radius, batched, backend)


@in_place_op("l1_project_", "delta")
def _op(delta: Tensor, radius: Tensor, backend: str) -> None:
    _l1_row.run("l1_project", delta, radius, backend)
