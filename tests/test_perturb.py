"""perturb: clipping, layouts, and the gradient of one trigger for a whole batch."""

from __future__ import annotations

import pytest
import torch

from awm_kernels import perturb
from tests.cases import present, rand


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("one_each", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_plain_pytorch(layout: torch.memory_format, one_each: bool, batch: int) -> None:
    x = rand(batch, 3, 5, 7).to(memory_format=layout).requires_grad_()
    delta = rand(*((batch, 3, 5, 7) if one_each else (3, 5, 7)), seed=1).requires_grad_()
    y = perturb(x, delta)
    expected = (x + delta).clamp(0, 1)
    torch.testing.assert_close(y, expected)
    assert y.stride() == x.stride()
    grad = torch.randn_like(y)
    torch.testing.assert_close(
        torch.autograd.grad(y, (x, delta), grad), torch.autograd.grad(expected, (x, delta), grad)
    )


def test_unbounded() -> None:
    x, delta = rand(2, 3, 4, 4), rand(3, 4, 4, seed=1)
    inf = float("inf")
    torch.testing.assert_close(perturb(x, delta, -inf, inf), x + delta)


def test_empty_batch_gives_a_zero_gradient() -> None:
    delta = rand(3, 4, 4).requires_grad_()
    perturb(torch.empty(0, 3, 4, 4, dtype=torch.float64), delta).sum().backward()
    assert torch.equal(present(delta.grad), torch.zeros_like(delta))


def test_bfloat16_images_with_a_float32_trigger() -> None:
    x, delta = rand(4, 3, 4, 4, dtype=torch.bfloat16), rand(3, 4, 4, dtype=torch.float32)
    y = perturb(x, delta.requires_grad_())
    assert torch.equal(y, (x.float() + delta).clamp(0, 1).bfloat16())
    y.sum().backward()
    assert present(delta.grad).dtype == torch.float32


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"delta: expected shape \(3, 4, 4\) or"):
        perturb(torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 5))
    with pytest.raises(ValueError, match="low: expected a number ≤ high"):
        perturb(torch.zeros(2, 3), torch.zeros(3), 1.0, 0.0)
