"""mask_step_ against torch's own optimisers, and what it promises about bad gradients."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from awm_kernels import mask_step_
from tests.cases import mask_of, rand


def test_adam_equals_torch_adam() -> None:
    theta, gamma = rand(50, seed=1), 0.01
    mask = mask_of(50)
    parameter = torch.nn.Parameter(mask.clone())
    optimizer = torch.optim.Adam([parameter], lr=0.05)
    first, second = torch.zeros(50).double(), torch.zeros(50).double()
    step = torch.tensor(0)
    for seed in range(20):
        grad = rand(50, seed=10 + seed)
        parameter.grad = grad * theta + gamma
        optimizer.step()
        with torch.no_grad():
            parameter.clamp_(0, 1)
        mask_step_(mask, grad, theta, step, lr=0.05, l1=gamma, exp_avg=first, exp_avg_sq=second)
    torch.testing.assert_close(mask, parameter.data)
    assert step.item() == 20


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_equals_torch_sgd(momentum: float) -> None:
    theta, mask = rand(50, seed=1), mask_of(50)
    parameter = torch.nn.Parameter(mask.clone())
    optimizer = torch.optim.SGD([parameter], lr=0.05, momentum=momentum)
    exp_avg = torch.zeros(50).double() if momentum else None
    step = torch.tensor(0)
    for seed in range(10):
        grad = rand(50, seed=10 + seed)
        parameter.grad = grad * theta
        optimizer.step()
        with torch.no_grad():
            parameter.clamp_(0, 1)
        mask_step_(mask, grad, theta, step, lr=0.05, exp_avg=exp_avg, betas=(momentum, 0.0))
    torch.testing.assert_close(mask, parameter.data)


def test_proximal_is_a_soft_threshold() -> None:
    mask = torch.tensor([0.0, 0.05, 0.5, 1.0])
    zero = torch.zeros(4)
    mask_step_(mask, zero, zero, torch.tensor(0), lr=0.1, l1=1.0, proximal=True)
    torch.testing.assert_close(mask, torch.tensor([0.0, 0.0, 0.4, 0.9]))


def test_clipping_bounds_the_mask_gradient() -> None:
    mask, theta = torch.full((2,), 0.5), torch.ones(2)
    mask_step_(mask, torch.tensor([100.0, -0.1]), theta, torch.tensor(0), lr=0.1, grad_clip=1.0)
    torch.testing.assert_close(mask, torch.tensor([0.4, 0.51]))


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("max_norm", [0.5, 1e3])
def test_norm_clipping_equals_torchs(max_norm: float, backend: str) -> None:
    theta, grad, mask = rand(700, seed=1), rand(700), mask_of(700)
    parameter = torch.nn.Parameter(mask.clone())
    parameter.grad = grad * theta
    torch.nn.utils.clip_grad_norm_(parameter, max_norm)
    expected = (mask - 0.1 * parameter.grad.clamp(-0.03, 0.03)).clamp(0, 1)
    mask_step_(
        mask,
        grad,
        theta,
        torch.tensor(0),
        lr=0.1,
        grad_norm_clip=max_norm,
        grad_clip=0.03,
        backend=backend,
    )
    torch.testing.assert_close(mask, expected)


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_non_finite_gradients_do_not_count_in_the_norm(backend: str) -> None:
    mask, grad = torch.full((3,), 0.5), torch.tensor([math.inf, 3.0, -4.0])
    mask_step_(mask, grad, torch.ones(3), torch.tensor(0), lr=0.1, grad_norm_clip=1.0,
               backend=backend)  # fmt: skip
    torch.testing.assert_close(mask, torch.tensor([0.5, 0.44, 0.58]))


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_non_finite_gradients_change_nothing_and_are_counted(backend: str) -> None:
    mask = torch.full((4,), 0.5)
    grad = torch.tensor([math.nan, 1.0, math.inf, -math.inf])
    exp_avg, exp_avg_sq = torch.full((4,), 0.25), torch.full((4,), 0.75)
    weight = torch.full((4,), math.nan)
    stats = mask_step_(
        mask,
        grad,
        torch.ones(4),
        torch.tensor(0),
        lr=0.1,
        exp_avg=exp_avg,
        exp_avg_sq=exp_avg_sq,
        weight_out=weight,
        backend=backend,
    )
    bad = torch.tensor([True, False, True, True])
    assert (mask[bad] == 0.5).all() and mask[1] != 0.5
    assert (exp_avg[bad] == 0.25).all() and (exp_avg_sq[bad] == 0.75).all()
    assert stats[1] == 3
    assert torch.equal(weight, mask)
    torch.testing.assert_close(stats[0], mask.double().sum())


def test_next_weights_are_those_of_the_new_mask() -> None:
    theta, scale = rand(3, 4, seed=1), rand(3, seed=2)
    mask, weight = mask_of(3, 4), torch.empty(3, 4, dtype=torch.float64)
    mask_step_(mask, rand(3, 4), theta, torch.tensor(0), lr=0.1, scale=scale, weight_out=weight)
    torch.testing.assert_close(weight, mask * theta * scale[:, None])


def _arguments(**change: Any) -> dict[str, Any]:
    base = {
        "mask": torch.ones(3),
        "grad_weight": torch.ones(3),
        "theta": torch.ones(3),
        "step": torch.tensor(0),
        "lr": 0.1,
    }
    return {**base, **change}


def _negated() -> Tensor:
    """A view of ones that PyTorch negates as it is read."""
    return torch.complex(torch.zeros(3), -torch.ones(3)).conj().imag


def _rows(row_ptr: list[int]) -> dict[str, Any]:
    return {"row_ptr": torch.tensor(row_ptr), "scale": torch.ones(len(row_ptr) - 1)}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"theta": torch.ones(2)}, ValueError, "theta: expected mask's shape"),
        ({"step": torch.tensor(0.0)}, ValueError, "step: expected a 0-dim int64"),
        ({"lr": -1.0}, ValueError, "lr: expected a number ≥ 0"),
        ({"lr": math.nan}, ValueError, "lr: expected a number ≥ 0"),
        ({"grad_norm_clip": -1.0}, ValueError, "grad_norm_clip: expected a number ≥ 0"),
        ({"exp_avg_sq": torch.ones(3)}, ValueError, "exp_avg: expected a tensor"),
        ({"exp_avg": torch.ones(3).double()}, TypeError, "exp_avg: expected torch.float32"),
        ({"stats": torch.ones(2)}, TypeError, "stats: expected torch.float64"),
        ({"betas": (0.9, 1.0)}, ValueError, "betas: expected two numbers"),
        ({"backend": "gpu"}, ValueError, "backend: expected one of auto"),
        ({"mask": torch.ones(1).expand(3)}, ValueError, "mask: expected a tensor to write to"),
        ({"exp_avg": torch.ones(1).expand(3)}, ValueError, "exp_avg: expected a tensor to write"),
        ({"mask": _negated()}, ValueError, "mask: expected .* got a negated view"),
        ({"step": torch.tensor(-1)}, ValueError, "step: expected a number ≥ 0, got -1"),
        (_rows([1, 3]), ValueError, "row_ptr: expected ascending offsets from 0 to 3"),
        (_rows([0, 10**12]), ValueError, "row_ptr: expected ascending offsets from 0 to 3"),
        (_rows([0, 4, 2, 3]), ValueError, "row_ptr: expected ascending offsets from 0 to 3"),
    ],
)
@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_bad_arguments_change_nothing(
    change: dict[str, Any], error: type[Exception], message: str, backend: str
) -> None:
    arguments = _arguments(**{"backend": backend, **change})
    before = arguments["step"].clone()
    with pytest.raises(error, match=message):
        mask_step_(**arguments)
    assert torch.equal(arguments["mask"], torch.ones(3))
    assert arguments["step"] == before


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_what_python_takes_for_a_number_is_one(backend: str) -> None:
    masks = [torch.full((3,), 0.5) for _ in range(3)]
    kinds: tuple[type[float | Decimal | Fraction], ...] = (float, Decimal, Fraction)
    for mask, kind in zip(masks, kinds, strict=True):
        numbers: Any = {"lr": kind("0.125"), "l1": kind("0.5"), "eps": kind("0.25")}
        mask_step_(**_arguments(mask=mask, backend=backend, **numbers))
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[0], masks[2])


def test_a_tensor_is_a_learning_rate() -> None:
    theta, grad = rand(50, seed=1), rand(50, seed=2)
    masks = [mask_of(50) for _ in range(2)]
    rates: list[float | Tensor] = [0.05, torch.tensor(0.05, dtype=torch.float64)]
    for mask, lr in zip(masks, rates, strict=True):
        mask_step_(mask, grad, theta, torch.tensor(0), lr=lr)
    assert torch.equal(*masks) and not torch.equal(masks[0], mask_of(50))
    with pytest.raises(ValueError, match="lr: expected a number or 0-dim float64"):
        mask_step_(masks[0], grad, theta, torch.tensor(0), lr=torch.tensor([0.05]))
