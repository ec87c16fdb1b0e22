"""One ascent step of the trigger search."""

from __future__ import annotations

from torch import Tensor

from awm_kernels import _check, _ops
from awm_kernels.l1_ball import _put_back, rows_and_radius


def trigger_step_(
    delta: Tensor,
    grad: Tensor,
    *,
    lr: float,
    radius: float | Tensor | None = None,
    project: bool = False,
    batched: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Δ ← Δ + lr · grad, then into the L1 ball, in place (AWM paper, Algorithm 1, 7 and 9).

    Args:
        delta: trigger of any shape, changed in place; with `batched`, one per `delta[i]`.
        grad: same shape; the gradient to climb (negative `lr` descends).
        lr: step size η₁.
        radius: τ ≥ 0, or with `batched` a tensor (rows,); None takes the step alone.
        project: `l1_project_` instead of `l1_rescale_`.
        batched, backend: as in `l1_rescale_`.

    Returns:
        `delta`.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    _check.floating(delta=delta, grad=grad)
    _check.same_shape("delta", delta, grad=grad)
    _check.same_device("delta", delta, grad=grad)
    rows, limit = rows_and_radius(delta, 0.0 if radius is None else radius, batched)
    grad_rows = grad.reshape(rows.shape)
    _ops.trigger_step_(rows, grad_rows, limit, lr, project, radius is not None, backend)
    return _put_back(delta, rows)
