"""Masked weights: s · (m ⊙ θ) for one layer, or for a whole network at once."""

from __future__ import annotations

import torch
from torch import Tensor

from awm_kernels import _check, _ops


def masked_weight(
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None = None,
    *,
    row_ptr: Tensor | None = None,
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """W = s · (m ⊙ θ), rounded once to `dtype` (AWM paper, Eq. 4.3: m ⊙ θ).

    Args:
        theta: weights of any shape; or, with `row_ptr`, the weights of many layers in one flat
            buffer, (n,).
        mask: same shape.
        scale: one factor per row (output channel), (rows,); a folded BatchNorm, say.
        row_ptr: int64 (rows + 1,), ascending from 0 to n: row r is elements
            `row_ptr[r]:row_ptr[r + 1]`. Without it, rows are `theta`'s first dimension. A
            channels_last weight keeps its rows contiguous, so flat buffers may hold either layout.
        dtype: of the result; default `theta.dtype`, or that of `out`.
        out: where to write W, in θ's shape and of the result's dtype, and not overlapping with the
            other arguments. Saves asking for new memory, which for a large network takes longer
            than the work. Not differentiable.
        backend: "auto", "reference", "cpu", "cuda" or "triton".

    Returns:
        W in θ's shape and memory format, or `out`. Differentiable in mask, theta and scale.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    _check.floating(theta=theta, mask=mask, scale=scale)
    _check.same_shape("theta", theta, mask=mask)
    _check.same_device("theta", theta, mask=mask, scale=scale, row_ptr=row_ptr)
    _check.rows(theta, scale, row_ptr)
    if out is not None:
        return _into(out, theta, mask, scale, row_ptr, dtype, backend)
    result: Tensor = _ops.masked_weight(theta, mask, scale, row_ptr, dtype or theta.dtype, backend)
    return result


def _into(
    out: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    row_ptr: Tensor | None,
    dtype: torch.dtype | None,
    backend: str,
) -> Tensor:
    _check.floating(out=out)
    _check.same_shape("theta", theta, out=out)
    _check.same_device("theta", theta, out=out)
    if dtype not in (None, out.dtype):
        raise TypeError(f"out: expected dtype's {dtype}, got {out.dtype}")
    inputs = {"theta": theta, "mask": mask, "scale": scale, "out": out}
    wanted = [name for name, value in inputs.items() if value is not None and value.requires_grad]
    if torch.is_grad_enabled() and wanted:
        raise ValueError(
            f"out: expected no argument that requires a gradient, got {', '.join(wanted)}; leave "
            "out away, or call under torch.no_grad()"
        )
    _ops.masked_weight_out(theta, mask, scale, row_ptr, out, backend)
    return out
