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
        dtype: of the result; default `theta.dtype`.
        backend: "auto", "reference", "cpu", "cuda" or "triton".

    Returns:
        W in θ's shape and memory format. Differentiable in mask, theta and scale.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    _check.floating(theta=theta, mask=mask, scale=scale)
    _check.same_shape("theta", theta, mask=mask)
    _check.same_device("theta", theta, mask=mask, scale=scale, row_ptr=row_ptr)
    _check.rows(theta, scale, row_ptr)
    result: Tensor = _ops.masked_weight(theta, mask, scale, row_ptr, dtype or theta.dtype, backend)
    return result
