"""Crafted triggers: budgets, shapes, seeds, and that they do excite the neuron."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from awm_defense.attacks import (
    ATTACKS,
    ImageTrigger,
    WarpTrigger,
    clean_label,
    craft_attack,
    l0_inv,
    l2_inv,
    trojan,
)
from awm_defense.attacks.neuron import Neuron

IMAGES = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
CRAFTED = sorted(name for name, method in ATTACKS.items() if method.mode is not None)
EXCITING = sorted(name for name in CRAFTED if ATTACKS[name].needs_model)


def image_trigger(name: str, model: nn.Module, seed: int = 0) -> ImageTrigger:
    trigger = craft_attack(name, 0, images=IMAGES, model=model, seed=seed).trigger
    assert isinstance(trigger, ImageTrigger)
    return trigger


def changed_pixels(trigger: ImageTrigger) -> torch.Tensor:
    return (trigger(IMAGES) != IMAGES).any(1).any(0)


@pytest.mark.parametrize("name", CRAFTED)
def test_values_are_those_of_a_png_and_by_seed(name: str, tiny_network: nn.Module) -> None:
    trigger = image_trigger(name, tiny_network)
    assert 0 <= trigger.image.min() <= trigger.image.max() <= 1
    levels = trigger.image * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    assert torch.equal(image_trigger(name, tiny_network).image, trigger.image)
    # From any start the nine pixels of l0_inv end up black or white, the same each.
    if name != "l0_inv":
        assert not torch.equal(image_trigger(name, tiny_network, seed=1).image, trigger.image)
    assert trigger.mode == ATTACKS[name].mode


@pytest.mark.parametrize("name", EXCITING)
def test_trigger_excites_the_neuron_more_than_its_start(
    name: str, tiny_network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    neuron = Neuron(tiny_network)
    module = {"l0_inv": l0_inv, "l2_inv": l2_inv}.get(name, trojan)
    made = neuron.activation(image_trigger(name, tiny_network)(IMAGES)).mean()
    monkeypatch.setattr(module, "STEPS", 0)
    start = neuron.activation(image_trigger(name, tiny_network)(IMAGES)).mean()
    clean = neuron.activation(IMAGES).mean()
    assert made > start
    assert made > clean


@pytest.mark.slow
def test_crafting_leaves_the_network_as_it_is(tiny_network: nn.Module) -> None:
    before = {name: value.clone() for name, value in tiny_network.state_dict().items()}
    for name in ATTACKS:
        craft_attack(name, 0, images=IMAGES, model=tiny_network)
    for name, value in tiny_network.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in tiny_network.parameters())


def test_neuron_is_the_most_connected_channel(tiny_network: nn.Sequential) -> None:
    last = tiny_network[3]
    with torch.no_grad():
        last.weight[17] += 5
    neuron = Neuron(tiny_network)
    assert neuron.channel == 17
    features = tiny_network.eval()[:6](IMAGES)
    torch.testing.assert_close(neuron.activation(IMAGES), features[:, 17].mean((1, 2)))


def test_neuron_needs_layers() -> None:
    with pytest.raises(ValueError, match="model: expected convolutions and a linear layer"):
        Neuron(nn.Linear(2, 2))


def test_trojan_square_stays_in_its_square(tiny_network: nn.Module) -> None:
    trigger = image_trigger("trojan_sq", tiny_network)
    changed = changed_pixels(trigger)
    changed[21:30, 21:30] = False
    assert not changed.any()
    assert (trigger.image[:, 21:30, 21:30] > 0).any()


def test_trojan_watermark_stays_in_its_shape_and_shines_through(tiny_network: nn.Module) -> None:
    trigger = image_trigger("trojan_wm", tiny_network)
    shape = trojan.watermark(32, 32)[0].bool()
    assert not (changed_pixels(trigger) & ~shape).any()
    assert 0.2 < shape.float().mean() < 0.4
    assert trigger.image.max() <= trojan.WATERMARK_STRENGTH


def test_l0_budget(tiny_network: nn.Module) -> None:
    trigger = image_trigger("l0_inv", tiny_network)
    assert trigger.mask.sum() == l0_inv.BUDGET
    assert changed_pixels(trigger).sum() <= l0_inv.BUDGET
    assert (trigger.image[:, trigger.mask[0] == 0] == 0).all()


def test_l2_budget_is_held_and_used(tiny_network: nn.Module) -> None:
    norm = image_trigger("l2_inv", tiny_network).image.norm()
    assert 0.9 * l2_inv.BUDGET < norm <= l2_inv.BUDGET


def test_blended_is_gaussian_noise_over_everything(tiny_network: nn.Module) -> None:
    trigger = image_trigger("blended", tiny_network)
    assert changed_pixels(trigger).float().mean() > 0.99
    assert trigger.image.mean() == pytest.approx(0.5, abs=0.02)
    assert trigger.image.std() == pytest.approx(0.25, abs=0.03)
    torch.testing.assert_close(trigger(IMAGES), 0.8 * IMAGES + 0.2 * trigger.image)


def test_wanet_moves_pixels_by_half_a_pixel_on_average_and_smoothly() -> None:
    trigger = craft_attack("wanet", 0, images=IMAGES).trigger
    assert isinstance(trigger, WarpTrigger)
    pixels = trigger.field * 32
    assert 0.2 < pixels.abs().mean() < 0.8
    assert (pixels[1:] - pixels[:-1]).abs().max() < 0.5
    other = craft_attack("wanet", 0, images=IMAGES, seed=1).trigger
    assert isinstance(other, WarpTrigger)
    assert not torch.equal(trigger.field, other.field)


def test_clean_label_perturbation_is_bounded_and_fools(tiny_network: nn.Module) -> None:
    truth = tiny_network.eval()(IMAGES).argmax(1).mode().values
    images = IMAGES[tiny_network(IMAGES).argmax(1) == truth]
    made = clean_label.harden(tiny_network, images, int(truth), torch.Generator().manual_seed(0))
    assert (made - images).abs().max() <= clean_label.EPSILON + 1e-6
    assert 0 <= made.min() <= made.max() <= 1
    assert (tiny_network(made).argmax(1) == truth).float().mean() < 0.2


@pytest.mark.parametrize("name", [*EXCITING, "clean_label"])
def test_needs_a_network(name: str) -> None:
    with pytest.raises(ValueError, match=f"model: {name} needs a clean network"):
        craft_attack(name, 0, images=IMAGES)
