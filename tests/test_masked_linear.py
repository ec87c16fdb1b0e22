"""masked_linear and MaskedLinear against torch's linear."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from awm_kernels.masked_linear import MaskedLinear, masked_linear
from tests.cases import mask_of, rand


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,)])
def test_equals_the_plain_linear_of_the_masked_weight(lead: tuple[int, ...]) -> None:
    x = rand(*lead, 5).requires_grad_()
    theta, mask = rand(4, 5, seed=1), mask_of(4, 5).requires_grad_()
    bias, scale = rand(4, seed=2), rand(4, seed=3)
    y = masked_linear(x, theta, mask, bias, scale=scale)
    expected = functional.linear(x, mask * theta * scale[:, None], bias)
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(y)
    torch.testing.assert_close(
        torch.autograd.grad(y, (x, mask), grad), torch.autograd.grad(expected, (x, mask), grad)
    )


def test_module_from_linear() -> None:
    linear = nn.Linear(5, 3, bias=False)
    module = MaskedLinear.from_linear(linear)
    x = torch.randn(4, 5)
    torch.testing.assert_close(module(x), linear(x))
    assert [name for name, _ in module.named_parameters()] == ["mask"]


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="x: expected 5 features"):
        masked_linear(torch.zeros(2, 4), torch.zeros(3, 5), torch.zeros(3, 5))
    with pytest.raises(TypeError, match=r"linear: expected torch.nn.Linear, got Conv2d"):
        MaskedLinear.from_linear(nn.Conv2d(1, 1, 1))  # type: ignore[arg-type]
