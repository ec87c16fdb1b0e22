"""A network and images so small that a purification takes milliseconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from awm_defense.baselines import BASELINES
from awm_defense.registry import RECIPES
from awm_defense.settings import Settings

CLASSES = 5
SIZE = (3, 6, 6)
# What makes one quick.
FEW = {
    "epochs": 1,
    "inner_epochs": 1,
    "batch_size": 4,
    "copies": 0,
    "grown": 1,
    "trigger_epochs": 1,
    "examine": False,
    "steps": 2,
    "rounds": 1,
    "noise_steps": 1,
    "fixed_point_steps": 2,
}


def network(classes: int = CLASSES) -> nn.Module:
    """Images (n, 3, 6, 6) to logits (n, classes)."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    ).eval()


def images() -> tuple[Tensor, Tensor]:
    """One of each class."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(CLASSES, *SIZE, generator=generator), torch.arange(CLASSES)


def few(settings: Settings) -> Settings:
    """The same defense with as little work as there is."""
    return settings.with_options({k: v for k, v in FEW.items() if hasattr(settings, k)})


DEFENSES: dict[str, Settings] = {
    name: few(settings) for name, settings in {**RECIPES, **BASELINES}.items()
}
