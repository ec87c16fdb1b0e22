"""The layouts that kernels take: dense, with one physical order for all arrays of a call.

Functions of these names bring a tensor into such a layout; they copy only where they must.
"""

from __future__ import annotations

import torch
from torch import Tensor

from awm_kernels._reference import compute_dtype


def _rows_first(tensor: Tensor) -> bool:
    """Dense, with dimension 0 outermost in memory (contiguous, channels_last)."""
    return bool(torch.ops.aten.is_non_overlapping_and_dense(tensor)) and (
        tensor.dim() == 0
        or tensor.shape[0] <= 1
        or tensor.stride(0) * tensor.shape[0] == tensor.numel()
    )


def ordered(tensor: Tensor) -> Tensor:
    """`tensor`, copied to contiguous memory unless it is dense with dimension 0 outermost."""
    return tensor if _rows_first(tensor) else tensor.contiguous()


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """`tensor`, copied unless it already has the (dense) strides of `model`."""
    if tensor.stride() == model.stride():
        return tensor
    return torch.empty_like(model, dtype=tensor.dtype).copy_(tensor)


def scale_for(theta: Tensor, scale: Tensor | None) -> Tensor | None:
    """`scale`, contiguous and in the dtype that arithmetic on `theta` is done in."""
    return None if scale is None else scale.to(compute_dtype(theta.dtype)).contiguous()


def write_back(target: Tensor, source: Tensor) -> None:
    """`target` ← `source`, unless a kernel has worked on `target` itself."""
    if target is not source:
        target.copy_(source)


def absent(model: Tensor) -> Tensor:
    """Stands for a gradient nobody asked for: an op must return tensors."""
    return model.new_empty(0)
