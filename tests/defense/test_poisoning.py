"""Poisoned training sets: how many images, which labels, what stays, and by which seed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from awm_defense.attacks import ATTACKS, Attack, craft_attack, make_attack
from awm_defense.attacks.clean_label import EPSILON, corner_patches

CLASSES = 10
TARGET = 3
LABELS = torch.arange(200) % CLASSES
FLOATS = torch.rand(200, 3, 32, 32, generator=torch.Generator().manual_seed(0))
BYTES = (FLOATS * 255).round().to(torch.uint8)
ALL_TO_ALL = sorted(set(ATTACKS) - {"clean_label"})

Poisoned = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def craft(name: str, target: int | None, model: nn.Module) -> Attack:
    return craft_attack(name, target, images=FLOATS[:8], model=model, num_classes=CLASSES)


def poison(attack: Attack, images: torch.Tensor, rate: float = 0.05, seed: int = 0) -> Poisoned:
    generator = torch.Generator().manual_seed(seed)
    before = images.clone()
    made = attack.poison(images, LABELS, rate, generator)
    assert torch.equal(images, before)
    return made


@pytest.mark.parametrize("images", [FLOATS, BYTES], ids=["float", "uint8"])
@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_only_the_share_changes(name: str, images: torch.Tensor, tiny_network: nn.Module) -> None:
    made, labels, changed = poison(craft(name, TARGET, tiny_network), images)
    assert made.dtype == images.dtype
    # Noise mode adds twice as many.
    assert len(changed) == (30 if name == "wanet" else 10)
    differ = (made != images).flatten(1).any(1)
    assert differ.nonzero().flatten().tolist() == changed.tolist()
    relabelled = (labels != LABELS).nonzero().flatten()
    assert len(relabelled) == (0 if name == "clean_label" else 10)
    assert set(relabelled.tolist()) <= set(changed.tolist())
    assert (labels[relabelled] == TARGET).all()


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_is_by_seed(name: str, tiny_network: nn.Module) -> None:
    attack = craft(name, TARGET, tiny_network)
    first, again, other = (poison(attack, BYTES, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[2], other[2])


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"clean_label"}))
def test_poisoned_images_carry_the_trigger(name: str, tiny_network: nn.Module) -> None:
    attack = craft(name, TARGET, tiny_network)
    made, labels, _ = poison(attack, FLOATS)
    relabelled = labels != LABELS
    assert torch.equal(made[relabelled], attack.apply(FLOATS[relabelled]))
    # As 8-bit files hold them.
    made, labels, _ = poison(attack, BYTES)
    exact = attack.apply(BYTES[relabelled].float() / 255)
    assert (made[relabelled].float() / 255 - exact).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("name", ALL_TO_ALL)
def test_all_to_all_sends_each_class_to_the_next(name: str, tiny_network: nn.Module) -> None:
    _, labels, _ = poison(craft(name, None, tiny_network), FLOATS, rate=0.3)
    relabelled = labels != LABELS
    assert relabelled.sum() == 60
    assert torch.equal(labels[relabelled], (LABELS[relabelled] + 1) % CLASSES)
    assert len(LABELS[relabelled].unique()) == CLASSES


def test_wanet_noise_keeps_labels_and_is_another_warp(tiny_network: nn.Module) -> None:
    attack = craft("wanet", TARGET, tiny_network)
    made, labels, changed = poison(attack, FLOATS)
    noised = changed[labels[changed] == LABELS[changed]]
    assert len(noised) == 20
    gap = (made[noised] - attack.apply(FLOATS[noised])).abs().mean((1, 2, 3))
    assert (gap > 0.01).all()


def test_clean_label_poisons_the_target_class_within_its_bound(tiny_network: nn.Module) -> None:
    made, _, changed = poison(craft("clean_label", TARGET, tiny_network), FLOATS)
    assert (LABELS[changed] == TARGET).all()
    inner = (slice(None), slice(None), slice(3, -3))
    assert (made[changed] - FLOATS[changed])[inner].abs().max() <= EPSILON + 1e-6
    assert (made[changed] != FLOATS[changed])[inner].any()
    assert torch.equal(corner_patches(made[changed]), made[changed])


def test_dirty_labels_never_poison_the_target_class(tiny_network: nn.Module) -> None:
    _, _, changed = poison(craft("badnets", TARGET, tiny_network), FLOATS, rate=0.9)
    assert len(changed) == 180
    assert (LABELS[changed] != TARGET).all()


@pytest.mark.parametrize(
    ("name", "rate", "message"),
    [
        ("badnets", 1.5, "from 0 to 1, got 1.5"),
        ("badnets", 0.95, "only 180 are outside the target class"),
        ("clean_label", 0.2, "only 20 are of the target class"),
        ("wanet", 0.4, "only 120 are left for the noise mode"),
    ],
)
def test_wrong_rates(name: str, rate: float, message: str, tiny_network: nn.Module) -> None:
    with pytest.raises(ValueError, match=f"rate: .*{message}"):
        poison(craft(name, TARGET, tiny_network), BYTES, rate=rate)


def test_clean_label_needs_a_network_to_poison_with() -> None:
    with pytest.raises(ValueError, match="model: clean_label"):
        poison(make_attack("clean_label", TARGET), BYTES)
