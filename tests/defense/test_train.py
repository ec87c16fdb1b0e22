"""Training plants a backdoor where asked, only there, and by seed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from awm_defense.attacks import make_attack
from awm_defense.data import Dataset
from awm_defense.metrics import evaluate
from awm_defense.train import train_backdoored

ATTACK = make_attack("badnets", 8)


def tiny_network() -> nn.Sequential:
    """Learns the digits in a second or two."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2, padding=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(2048, 10),
    )


def test_plants_the_backdoor_and_learns_the_task(digits: Dataset) -> None:
    model = train_backdoored(tiny_network(), *digits.train(), ATTACK, epochs=8)
    assert not model.training
    found = evaluate(model, *digits.test(), ATTACK)
    assert found["acc"] > 93
    assert found["asr"] > 93


def test_without_an_attack_there_is_no_backdoor(digits: Dataset) -> None:
    model = train_backdoored(tiny_network(), *digits.train(), None, epochs=4)
    found = evaluate(model, *digits.test(), ATTACK)
    assert found["acc"] > 90
    assert found["asr"] < 20


def train_a_little(digits: Dataset, **options: object) -> torch.Tensor:
    images, labels = digits.train()
    model = train_backdoored(
        tiny_network(),
        images[:100],
        labels[:100],
        ATTACK,
        epochs=1,
        **options,  # type: ignore[arg-type]
    )
    return nn.utils.parameters_to_vector(model.parameters())


def test_training_is_by_seed_and_leaves_the_global_generator(digits: Dataset) -> None:
    first = train_a_little(digits, seed=1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    images, labels = digits.train()
    model = tiny_network()
    torch.manual_seed(5)
    train_backdoored(model, images[:100], labels[:100], ATTACK, epochs=1, seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), first)
    assert not torch.equal(train_a_little(digits, seed=2), first)
    assert not torch.equal(train_a_little(digits, seed=1, augment=True), first)


def test_what_was_passed_stays_as_it_is(digits: Dataset) -> None:
    images, labels = (part[:40].clone() for part in digits.train())
    before = images.clone(), labels.clone()
    train_backdoored(tiny_network(), images, labels, ATTACK, epochs=1, poison_rate=0.5)
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])


def test_fewer_images_than_a_batch(digits: Dataset) -> None:
    images, labels = digits.train()
    model = train_backdoored(tiny_network(), images[:10], labels[:10], ATTACK, epochs=2)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_wrong_arguments(digits: Dataset) -> None:
    images, labels = digits.train()
    with pytest.raises(ValueError, match="got 901 and 5"):
        train_backdoored(tiny_network(), images, labels[:5], ATTACK)
    with pytest.raises(ValueError, match="got 0 and 32"):
        train_backdoored(tiny_network(), images, labels, ATTACK, epochs=0, batch_size=32)
