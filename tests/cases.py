"""One small case per op, shared by opcheck, gradcheck and the meta-test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def rand(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def mask_of(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return rand(*shape, seed=7).sigmoid().to(dtype)


def _masked_conv(dtype: torch.dtype, backend: str) -> tuple[Any, ...]:
    return (
        rand(2, 4, 5, 6, dtype=dtype),
        rand(6, 2, 3, 2, dtype=dtype),
        mask_of(6, 2, 3, 2, dtype=dtype),
        rand(6, dtype=dtype, seed=1),
        rand(6, dtype=dtype, seed=2),
        [2, 1],
        [1, 0],
        [1, 2],
        2,
        backend,
    )


def _masked_linear(dtype: torch.dtype, backend: str) -> tuple[Any, ...]:
    return (
        rand(2, 3, 5, dtype=dtype),
        rand(4, 5, dtype=dtype),
        mask_of(4, 5, dtype=dtype),
        rand(4, dtype=dtype, seed=1),
        rand(4, dtype=dtype, seed=2),
        backend,
    )


def _masked_weight(dtype: torch.dtype, backend: str) -> tuple[Any, ...]:
    return (
        rand(11, dtype=dtype),
        mask_of(11, dtype=dtype),
        rand(3, dtype=dtype, seed=1),
        torch.tensor([0, 3, 3, 11]),
        dtype,
        backend,
    )


def _mask_step_(dtype: torch.dtype, backend: str) -> tuple[Any, ...]:
    moment = torch.float64 if dtype == torch.float64 else torch.float32
    return (
        mask_of(5, 7, dtype=dtype),
        rand(5, 7, dtype=dtype),
        rand(5, 7, dtype=dtype, seed=1),
        rand(5, 7, dtype=moment, seed=2),
        rand(5, 7, dtype=moment, seed=3).square(),
        torch.tensor(2),
        torch.empty(5, 7, dtype=dtype),
        torch.empty(2, dtype=torch.float64),
        rand(5, dtype=moment, seed=4),
        None,
        torch.tensor(0.01, dtype=torch.float64),
        0.9,
        0.999,
        1e-8,
        1.0,
        1e-3,
        2.0,
        False,
        backend,
    )


def _rows(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    radius = torch.float64 if dtype == torch.float64 else torch.float32
    return rand(3, 17, dtype=dtype), torch.tensor([1.0, 4.0, 100.0], dtype=radius)


def _l1(dtype: torch.dtype, backend: str) -> tuple[Any, ...]:
    return (*_rows(dtype), backend)


def _perturb(dtype: torch.dtype, backend: str) -> tuple[Any, ...]:
    # Away from the clipping bounds, where a finite difference would meet the kink.
    x = rand(3, 2, 4, 3, dtype=dtype) + 0.003
    return x, rand(2, 4, 3, dtype=dtype, seed=1), -0.5, 1.0, backend


def _trigger_step_(dtype: torch.dtype, backend: str) -> tuple[Any, ...]:
    delta, radius = _rows(dtype)
    return delta, rand(3, 17, dtype=dtype, seed=1), radius, 0.5, True, True, backend


def _pooled_elu(dtype: torch.dtype, backend: str) -> tuple[Any, ...]:
    return rand(2, 3, 5, 4, dtype=dtype), 2, 0.7, backend


CASES: dict[str, Callable[[torch.dtype, str], tuple[Any, ...]]] = {
    "masked_conv": _masked_conv,
    "masked_linear": _masked_linear,
    "masked_weight": _masked_weight,
    "mask_step_": _mask_step_,
    "l1_rescale_": _l1,
    "l1_project_": _l1,
    "perturb": _perturb,
    "trigger_step_": _trigger_step_,
    "pooled_elu": _pooled_elu,
}


def present(value: Tensor | None) -> Tensor:
    """`value`, say a gradient, which must not be None."""
    assert value is not None
    return value


DIFFERENTIABLE = ("masked_conv", "masked_linear", "masked_weight", "perturb", "pooled_elu")


def op(name: str) -> Any:
    return getattr(torch.ops.awm_kernels, name).default
