"""fuse_activations: the same function with fewer ops, and nothing fused that is not the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn

from awm_defense.models import build_model
from awm_defense.working.activations import PooledELU, fuse_activations
from awm_defense.working.fold import fold_batchnorm


def fused(model: nn.Module) -> tuple[fx.GraphModule, list[PooledELU]]:
    traced = fx.symbolic_trace(model)
    fuse_activations(traced)
    return traced, [module for module in traced.modules() if isinstance(module, PooledELU)]


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = model(x)
    learnt = [value for value in model.parameters() if value.requires_grad]
    return [y, *torch.autograd.grad(y.square().sum(), [x, *learnt])]


def check_same(model: nn.Module, traced: nn.Module, x: Tensor) -> None:
    for got, expected in zip(gradients(traced, x), gradients(model, x), strict=True):
        torch.testing.assert_close(got, expected)


def test_a_folded_small_vgg() -> None:
    folded, _ = fold_batchnorm(build_model("small_vgg", 10).eval().double())
    fused_twin = copy.deepcopy(folded)
    fuse_activations(fused_twin)
    found = [module.window for module in fused_twin.modules() if isinstance(module, PooledELU)]
    assert found == [1, 2] * 3
    check_same(folded, fused_twin, torch.randn(2, 3, 32, 32).double())


@pytest.mark.parametrize("activation", [nn.ELU(0.7), nn.ReLU()])
@pytest.mark.parametrize("size", [6, 7])
def test_pooling_moves_into_the_activation(activation: nn.Module, size: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.MaxPool2d(2)).double()
    traced, found = fused(model)
    assert [module.window for module in found] == [2]
    assert not any(isinstance(module, nn.MaxPool2d) for module in traced.modules())
    check_same(model, traced, torch.randn(2, 3, size, size).double())


def test_an_elu_without_pooling() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ELU(), nn.Conv2d(4, 4, 3), nn.ReLU()).double()
    traced, found = fused(model)
    assert [(module.window, module.alpha) for module in found] == [(1, 1.0)]
    check_same(model, traced, torch.randn(2, 3, 6, 6).double())


SHARED = nn.ELU()


@pytest.mark.parametrize(
    "pooling",
    [
        nn.MaxPool2d(3),
        nn.MaxPool2d(2, stride=1),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2),
    ],
)
def test_other_pooling_stays(pooling: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ELU(), pooling).double()
    traced, found = fused(model)
    assert [module.window for module in found] == [1]
    assert any(type(module) is type(pooling) for module in traced.modules())
    check_same(model, traced, torch.randn(2, 3, 7, 7).double())


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, 4, 1), SHARED, nn.Conv2d(4, 4, 1), SHARED),
        nn.Sequential(nn.Flatten(), nn.Linear(147, 4), nn.ELU()),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.LeakyReLU(), nn.MaxPool2d(2)),
    ],
    ids=["called twice", "not an image", "another activation"],
)
def test_what_is_left_alone(model: nn.Module) -> None:
    traced, found = fused(model.double())
    assert not found
    check_same(model, traced, torch.randn(2, 3, 7, 7).double())


class Branch(nn.Module):
    """What the activation makes is wanted before pooling too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.elu, self.pool = nn.Conv2d(3, 4, 3), nn.ELU(), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.elu(self.conv(x))
        return torch.cat([self.pool(y).flatten(1), y.flatten(1)], 1)


def test_a_result_with_two_readers() -> None:
    model = Branch().double()
    traced, found = fused(model)
    assert [module.window for module in found] == [1]
    check_same(model, traced, torch.randn(2, 3, 6, 6).double())
