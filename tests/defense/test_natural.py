"""The Fisher information of predictions, and mask steps weighed by it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from awm_defense import get_recipe
from awm_defense.awm.engine import Engine, make_engine
from awm_defense.awm.natural import along, inverse
from awm_defense.examination.verdict import Verdict
from awm_defense.pixel_model import PixelModel
from tests.defense.conftest import tiny_network


@pytest.mark.slow
def test_squared_gradients_are_the_fisher_information_on_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    chances = (inputs @ weight.detach().T).softmax(1)
    # E over labels of (d log p / dW)^2, summed over rows: p (1 - p) x^2 for a linear layer.
    expected = torch.einsum("nk,ni->ki", chances * (1 - chances), inputs.square())
    total = torch.zeros_like(expected)
    count = 20_000
    for _ in range(count):
        noise = torch.randn(6, 4, generator=generator, dtype=torch.float64)
        (slope,) = torch.autograd.grad(along(inputs @ weight.T, noise), weight)
        total += slope.square()
    torch.testing.assert_close(total / count, expected, rtol=0.05, atol=0)


def test_information_is_inverted_beside_its_layers_mean() -> None:
    information = torch.tensor([1.0, 3.0, 0.0, 0.0, 4.0, 0.0])
    layers = information.split((2, 2, 2))
    found = inverse(information, layers)
    expected = [1 / 3, 1 / 5, 0, 0, 1 / 6, 1 / 2]
    assert found.tolist() == pytest.approx(expected)


def natural_engine() -> Engine:
    """One whose next epoch is down the natural gradient."""
    images = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    recipe = get_recipe("default").with_options({"grown": "2", "layers": "conv"})
    pixel_model = PixelModel(tiny_network().eval(), images).copy(images)
    engine = make_engine(pixel_model, images, torch.arange(10), recipe, precision="fp32")
    trigger = torch.zeros(3, 32, 32)
    trigger[:, 4, 4] = 1
    engine.follow(Verdict(True, 3, "added to", 5.0, "L1", 9.0, 1.0, trigger, torch.ones(10)))
    # An untrained network has no class to grow a trigger to.
    engine.growth.grown.fill_(0.3)
    return engine


def test_a_weighed_step_is_one_of_sgd_with_weighed_gradients() -> None:
    """By plain autograd, from the same buffers; the first step has the size asked for."""
    engine = natural_engine()
    phase, buffers = engine.mask_phase(engine.plan(0)), engine.buffers
    assert phase.natural
    phase.weigh()
    flat = engine.network.flat
    assert flat.factors is not None
    assert torch.isfinite(flat.factors).all() and (flat.factors >= 0).all()
    assert all(layer.any() for layer in flat.views(flat.factors))
    buffers.rate.fill_(0.02)
    momentum = torch.zeros_like(flat.mask)
    for step in range(2):
        position = buffers.position.clone()
        flat.require_grad(True)
        phase.losses(phase.take())[1].backward()
        gradient = flat.mask_grad() * flat.factors
        flat.grad.zero_()
        momentum = 0.9 * momentum + gradient
        expected = (flat.mask - 0.02 * momentum).clamp(0, 1)
        if step == 0:
            assert float(gradient.abs().mean()) == pytest.approx(1, rel=1e-4)
        assert torch.equal(buffers.position, position)
        phase.step()
        assert_masks(flat.mask, expected)
    assert engine.recipe.trigger_epochs is not None
    assert not engine.plan(engine.recipe.trigger_epochs - 1).forgets
    assert engine.plan(engine.recipe.trigger_epochs).forgets
    flat.forget()
    assert flat.exp_avg is not None and not flat.exp_avg.any()


def assert_masks(found: Tensor, expected: Tensor) -> None:
    assert (expected < 1).any()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
