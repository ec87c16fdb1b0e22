"""What enters the last layer, and masks that are held to it."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_network
from torch import Tensor, nn

from awm_defense import get_recipe, purify
from awm_defense.features import head, reach
from awm_defense.models import build_model
from awm_defense.purify import make_engine

OPTIONS = {"mask_targets": "features", "temperature": "1", "examine": "false"}
RECIPE = get_recipe("default").with_options({**OPTIONS, "epochs": "1", "passes": "1"})
CPU = torch.device("cpu")


def images(count: int = 10) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class TwoHeads(nn.Module):
    """The layer that makes the logits is not the last one that the model lists."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.logits = nn.Linear(4, 10)
        self.unused = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        self.unused(features)
        made: Tensor = self.logits(features)
        return made


class NoHead(nn.Sequential):
    """Its logits come from a convolution."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (TwoHeads(), "logits"),
        (NoHead(), None),
        (build_model("small_vgg", 10), "classifier"),
        (build_model("resnet18", 10), "linear"),
    ],
)
def test_the_head_is_the_linear_layer_whose_output_is_returned(
    model: nn.Module, name: str | None
) -> None:
    model.eval()
    assert head(model, lambda: model(images(2))) == name
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("make", [tiny_network, TwoHeads, NoHead])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_are_squared_distances_of_features_in_logits(
    make: type[nn.Module], precision: str
) -> None:
    """Against features that a hook takes from the model itself; BatchNorm is folded here."""
    torch.manual_seed(0)
    model = make().eval()
    engine = make_engine(
        model, images(), torch.arange(10), recipe=RECIPE, device=CPU, precision=precision
    )
    engine.enter(0)
    engine.start_phase()
    engine.delta.fill_(0.1)
    batch = engine._take()
    losses, _ = engine._losses(batch)
    name = head(model, lambda: model(images(2)))
    seen: list[Tensor] = []
    if name is not None:
        model.get_submodule(name).register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        for batch_images in (batch.images, (batch.images + 0.1).clamp(0, 1)):
            logits = model(batch_images)
            if name is None:
                seen.append(logits)
    clean, perturbed = seen
    expected = (perturbed - clean).square().sum(1).mean() / 2
    if name is not None:
        own = model.get_submodule(name).weight
        expected *= (own - own.mean(0)).square().sum().detach() / own.shape[1]
    assert float(losses[0].detach()) == pytest.approx(0, abs=1e-4 if precision == "bf16" else 1e-9)
    assert float(losses[1].detach()) == pytest.approx(
        float(expected), rel=0.1 if precision == "bf16" else 1e-4
    )


def test_reach_is_what_random_directions_change_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 7, generator=generator)
    moves = torch.randn(200_000, 7, generator=generator)
    moves /= moves.norm(dim=1, keepdim=True)
    logits = moves @ weight.T
    changes = (logits - logits.mean(1, keepdim=True)).square().sum(1) / 2
    assert float(reach(weight)) == pytest.approx(float(changes.mean()), rel=0.01)
    # What all logits have in common changes nothing.
    assert float(reach(weight + torch.randn(7, generator=generator))) == pytest.approx(
        float(reach(weight)), rel=1e-5
    )


def test_masks_are_learnt_from_features_and_lower_the_distance() -> None:
    model = tiny_network().eval()
    recipe = RECIPE.with_options({"epochs": "6", "tau": "300"})
    result = purify(model, images(), torch.arange(10), recipe=recipe, precision="fp32")
    losses = [entry["perturbed_loss"] for entry in result.history]
    assert min(losses[1:]) < losses[0]
    assert any((mask < 0.99).any() for mask in result.masks.values())
    assert not any("held" in note for note in result.notes)


def test_a_network_without_such_a_layer_is_held_to_its_logits_and_says_so() -> None:
    result = purify(NoHead().eval(), images(), torch.arange(10), recipe=RECIPE, precision="fp32")
    assert "logits are held: they are not the output of a linear layer" in result.notes
