"""How far a result may be from the exact one: as far as PyTorch in the same precision, twice."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_accurate(
    actual: Tensor, same_precision: Tensor, exact: Tensor, factor: float = 2
) -> None:
    """`actual`'s largest error against `exact` (float64) is at most `factor` · PyTorch's.

    Two roundings of the largest value are allowed beyond that: PyTorch may happen to be exact.
    NaN never passes.
    """
    assert actual.shape == same_precision.shape
    assert actual.dtype == same_precision.dtype
    if exact.numel() == 0:
        return
    exact = exact.double()
    compute = torch.float64 if actual.dtype == torch.float64 else torch.float32
    allowed = factor * (same_precision.double() - exact).abs().max()
    allowed += 2 * torch.finfo(compute).eps * exact.abs().max()
    error = (actual.double() - exact).abs().max()
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"
