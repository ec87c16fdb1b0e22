"""One ascent step of the trigger search."""

from __future__ import annotations

from torch import Tensor

from awm_kernels import _check
from awm_kernels import _reference as reference
from awm_kernels._backend import choose
from awm_kernels._l1_row import put_back, radius_for, rows_and_radius
from awm_kernels._layout import write_back
from awm_kernels._registration import in_place_op, kernel


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
    _check.exactly(bool, project=project, batched=batched)
    _check.exactly(str, backend=backend)
    lr = _check.number("lr", lr)
    _check.same_shape("delta", delta, grad=grad)
    _check.same_device("delta", delta, grad=grad)
    rows, limit = rows_and_radius(delta, 0.0 if radius is None else radius, batched)
    _op(rows, grad.reshape(rows.shape), limit, lr, project, radius is not None, backend)
    return put_back(delta, rows)


@in_place_op("trigger_step_", "delta")
def _op(
    delta: Tensor, grad: Tensor, radius: Tensor, lr: float, project: bool, bound: bool, backend: str
) -> None:
    chosen = choose(backend, delta, grad, op="trigger_step_")
    if chosen == "reference":
        reference.trigger_step_(delta, grad, radius, lr, project, bound)
        return
    dense = delta.contiguous()
    step = kernel("trigger_step", "trigger_step_", chosen)
    step(dense, grad.contiguous(), radius_for(delta, radius), lr, project, bound)
    write_back(delta, dense)
