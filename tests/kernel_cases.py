"""What the tests of the C++ and CUDA kernels share: dtypes, arguments, and how close is close."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from awm_kernels import _reference as reference

F32, BF16, F64 = torch.float32, torch.bfloat16, torch.float64
# Half the last place of each dtype. float64 also stands for the exact result, whose sums have an
# error of their own, so it is given some more.
UNIT = {F32: 2.0**-24, BF16: 2.0**-9, F64: 2.0**-47}
NO_CLIP = math.inf


def nan_like(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.full_like(tensor, math.nan, dtype=dtype)


def double(args: Any) -> Any:
    """A copy of `args` with every floating tensor in float64."""
    if isinstance(args, Tensor) and args.is_floating_point():
        return args.double()
    return args


def copied(args: list[Any]) -> list[Any]:
    return [a.clone() if isinstance(a, Tensor) else a for a in args]


def check_close(got: Tensor, same_precision: Tensor, exact: Tensor) -> None:
    """`got` is at most twice as far from `exact` as `same_precision`, plus one rounding."""
    assert got.dtype == same_precision.dtype
    assert got.shape == same_precision.shape
    if got.numel() == 0:
        return
    assert not got.isnan().any()
    scale = exact.abs().max()
    error = (got.double() - exact).abs().max()
    allowed = 2 * (same_precision.double() - exact).abs().max() + UNIT[got.dtype] * scale
    assert error <= allowed, f"error {error:.3e}, allowed {allowed:.3e}"


def scale_case(kind: str, n: int, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """(scale, row_ptr) for a flat array of n elements: no scale, or rows of uneven lengths."""
    if kind == "none":
        return None, None
    cuts = torch.randint(0, n + 1, (9,)).sort().values  # repeated cuts are empty rows
    row_ptr = torch.cat([torch.tensor([0]), cuts, torch.tensor([n])])
    return torch.randn(10, dtype=reference.compute_dtype(dtype)), row_ptr


WEIGHT_DTYPES = [
    (F32, F32, F32),
    (F64, F64, F64),
    (BF16, BF16, BF16),
    (F32, F32, BF16),
    (BF16, F32, F32),
    (F32, BF16, BF16),
    (F64, F32, BF16),
    (F32, F64, F64),
]

# mask, grad_weight, theta, weight_out
STEP_DTYPES = [
    (F32, F32, F32, F32),
    (F64, F64, F64, F64),
    (BF16, BF16, BF16, BF16),
    (F32, BF16, F32, BF16),
    (F32, F32, BF16, BF16),
    (BF16, F32, F32, F32),
    (F32, F32, F64, F32),
    (F64, F32, F32, BF16),
]
OPTIMISERS = ["adam", "momentum", "sgd"]


def step_case(
    n: int,
    dtypes: tuple[torch.dtype, ...] = STEP_DTYPES[0],
    optimiser: str = "adam",
    rows: str = "uneven",
    grad_clip: float = NO_CLIP,
    l1: float = 1e-3,
    grad_norm_clip: float = NO_CLIP,
    proximal: bool = False,
) -> list[Any]:
    """Arguments of mask_step_, in order. A third of the masks starts at 0 or 1."""
    mask_dtype, grad_dtype, theta_dtype, out_dtype = dtypes
    moments = reference.compute_dtype(mask_dtype)
    mask = (torch.rand(n) * 1.5 - 0.25).clamp(0, 1).to(mask_dtype)
    scale, row_ptr = scale_case(rows, n, theta_dtype)
    return [
        mask,
        torch.randn(n).to(grad_dtype),
        torch.randn(n).to(theta_dtype),
        None if optimiser == "sgd" else torch.randn(n, dtype=moments) * 0.1,
        torch.rand(n, dtype=moments) if optimiser == "adam" else None,
        torch.tensor(3),
        nan_like(mask, out_dtype),
        torch.full((2,), math.nan, dtype=F64),
        scale,
        row_ptr,
        *(torch.tensor(0.01, dtype=F64), 0.9, 0.999, 1e-8, grad_clip, l1, grad_norm_clip, proximal),
    ]


def l1_case(rows: int, cols: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows with ties, zeros and signs, and radii of which some are greater than the row's norm."""
    delta = torch.randn(rows, cols)
    delta[:, ::3] = delta[:, ::3].round()
    delta = delta.to(dtype)
    norm = delta.double().abs().sum(dim=1)
    factor = torch.rand(rows) * 1.2
    return delta, (norm * factor).to(reference.compute_dtype(dtype))


PERTURB_DTYPES = [
    (F32, F32, F32),
    (F64, F64, F64),
    (BF16, BF16, BF16),
    (BF16, F32, BF16),
    (F32, F32, BF16),
    (F64, F32, F64),
]
