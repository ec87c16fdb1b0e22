"""What tests of the defense share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from awm_defense.data import Dataset, load_dataset
from awm_defense.reproduce.cells import Place
from tests.defense.cells import write_network


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits")


def tiny_network(seed: int = 0) -> nn.Sequential:
    """Learns the digits in a second or two."""
    torch.manual_seed(seed)
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


@pytest.fixture(name="tiny_network")
def fixture_tiny_network() -> nn.Sequential:
    return tiny_network()


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    models = tmp_path_factory.mktemp("models")
    write_network(models / "small_vgg" / "badnets")
    return Place(models, None, "cpu")
