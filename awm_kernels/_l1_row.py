"""What the ops on the L1 ball share: triggers as the rows of a matrix, with a radius a row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from awm_kernels import _check
from awm_kernels import _reference as reference
from awm_kernels._backend import choose
from awm_kernels._layout import write_back
from awm_kernels._reference import compute_dtype
from awm_kernels._registration import kernel


def rows_and_radius(delta: Tensor, radius: float | Tensor, batched: bool) -> tuple[Tensor, Tensor]:
    """`delta` as a matrix with one row per ball (a view if contiguous), and a radius per row."""
    _check.writable(delta=delta)
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
    limit = _check.number("radius", radius, 0.0)
    dtype = compute_dtype(delta.dtype)
    return rows, torch.full((count,), limit, dtype=dtype, device=delta.device)


def radius_for(delta: Tensor, radius: Tensor) -> Tensor:
    """`radius` as kernels take it: contiguous, in the dtype of arithmetic on `delta`."""
    return radius.to(compute_dtype(delta.dtype)).contiguous()


def put_back(delta: Tensor, rows: Tensor) -> Tensor:
    """`delta`, with the values of `rows` if these are no view of it."""
    if not delta.is_contiguous():
        delta.copy_(rows.reshape(delta.shape))
    return delta


def into_ball(
    op: Callable[..., None], delta: Tensor, radius: float | Tensor, batched: bool, backend: str
) -> Tensor:
    """The public functions: check, run `op` on the rows, return `delta`."""
    _check.floating(delta=delta)
    _check.exactly(bool, batched=batched)
    _check.exactly(str, backend=backend)
    rows, limit = rows_and_radius(delta, radius, batched)
    op(rows, limit, backend)
    return put_back(delta, rows)


def run(op: str, delta: Tensor, radius: Tensor, backend: str) -> None:
    """`op`, "l1_rescale" or "l1_project", on the rows of `delta` by a backend's kernel."""
    name = f"{op}_"
    chosen = choose(backend, delta, op=name)
    if chosen == "reference":
        getattr(reference, name)(delta, radius)
        return
    dense = delta.contiguous()
    kernel(op, name, chosen)(dense, radius_for(delta, radius))
    write_back(delta, dense)
