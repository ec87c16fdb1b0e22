"""Into the L1 ball by rescaling, as the AWM paper does it."""

from __future__ import annotations

from torch import Tensor

from awm_kernels import _l1_row
from awm_kernels._registration import in_place_op


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
    return _l1_row.into_ball(_op, delta, radius, batched, backend)


@in_place_op("l1_rescale_", "delta")
def _op(delta: Tensor, radius: Tensor, backend: str) -> None:
    _l1_row.run("l1_rescale", delta, radius, backend)
