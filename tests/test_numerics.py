"""The scalar rules of csrc/numerics.h, one element at a time, against the reference."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest
import torch

from awm_kernels import _reference as reference

build_info = pytest.importorskip(
    "awm_kernels._build_info", reason="the C++ kernels are not built (AWM_CPU)"
)

VALUES = [-math.inf, -3.0, -1.0, -0.25, -0.0, 0.0, 1e-30, 0.25, 1.0, 3.0, math.inf]
DTYPES = [torch.float32, torch.float64]


def rules(dtype: torch.dtype) -> ModuleType:
    module = build_info.float32 if dtype == torch.float32 else build_info.float64
    assert isinstance(module, ModuleType)
    return module


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [*VALUES, math.nan])
def test_is_finite(value: float, dtype: torch.dtype) -> None:
    assert rules(dtype).is_finite(value) == math.isfinite(value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", VALUES)
def test_clip(value: float, dtype: torch.dtype) -> None:
    expected = torch.tensor(value, dtype=dtype).clamp(-0.5, 0.75)
    assert rules(dtype).clip(value, -0.5, 0.75) == expected
    assert math.isnan(rules(dtype).clip(math.nan, 0, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", VALUES[1:-1])
def test_soft_threshold(value: float, dtype: torch.dtype) -> None:
    tensor = torch.tensor(value, dtype=dtype)
    expected = torch.nn.functional.softshrink(tensor, 0.25)
    assert rules(dtype).soft_threshold(value, 0.25) == expected
    assert math.isnan(rules(dtype).soft_threshold(math.nan, 0.25))


@pytest.mark.parametrize("dtype", DTYPES)
def test_inside(dtype: torch.dtype) -> None:
    inside = rules(dtype).inside
    assert [inside(v, 0.0, 1.0) for v in (-0.1, 0.0, 0.5, 1.0, 1.1)] == [False, *[True] * 3, False]
    assert not inside(math.nan, -math.inf, math.inf)


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_weight(dtype: torch.dtype) -> None:
    mask, theta, scale = (torch.rand(1, dtype=dtype) for _ in range(3))
    expected = reference.masked_weight(theta, mask, scale, None, dtype)
    assert rules(dtype).masked_weight(mask.item(), theta.item(), scale.item()) == expected.item()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimiser", ["adam", "momentum", "sgd"])
@pytest.mark.parametrize("proximal", [False, True])
@pytest.mark.parametrize("grad_clip", [math.inf, 0.1])
@pytest.mark.parametrize("grad_norm_clip", [math.inf, 0.2])
@pytest.mark.parametrize("grad", [-0.7, 0.0, 0.05, 2.0])
@pytest.mark.parametrize("mask", [0.0, 0.4, 1.0])
def test_mask_update(
    mask: float,
    grad: float,
    grad_norm_clip: float,
    grad_clip: float,
    proximal: bool,
    optimiser: str,
    dtype: torch.dtype,
) -> None:
    moments = (0.03, 0.2)
    options: dict[str, Any] = {
        "lr": 0.05, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "grad_clip": grad_clip, "l1": 0.3,
        "grad_norm_clip": grad_norm_clip, "proximal": proximal,
    }  # fmt: skip
    got = rules(dtype).mask_update(optimiser, mask, grad, *moments, step=4, **options)

    def one(value: float) -> torch.Tensor:
        return torch.tensor([value], dtype=dtype)

    expected = [one(mask), one(moments[0]), one(moments[1])]
    reference.mask_step_(
        expected[0],
        one(grad),
        one(1.0),
        None if optimiser == "sgd" else expected[1],
        expected[2] if optimiser == "adam" else None,
        torch.tensor(4),
        None,
        torch.zeros(2, dtype=torch.float64),
        None,
        None,
        **{**options, "lr": torch.tensor(options["lr"], dtype=torch.float64)},
    )
    torch.testing.assert_close(torch.tensor(got, dtype=dtype), torch.cat(expected))


def test_mask_update_names_the_optimisers() -> None:
    with pytest.raises(ValueError, match="expected adam, momentum or sgd, got lion"):
        build_info.float32.mask_update("lion", 1, 1, 0, 0, 1, 1, 0, 0, 0, 1, 0, 1, False)
