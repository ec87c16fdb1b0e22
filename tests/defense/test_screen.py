"""Which of many classes are searched."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor, nn

from awm_defense import examine
from awm_defense.examination import screen as screening
from awm_defense.examination.margins import target_margins
from awm_defense.examination.screen import every_margin, screen
from awm_defense.report.pictures import draw_margins

IMAGES, LABELS = torch.full((10, 3, 16, 16), 0.5), torch.arange(10)


class Pixels(nn.Module):
    """Each pixel value speaks for one class, `planted` more loudly; counts images."""

    def __init__(self, classes: int, planted: int = 0, loud: float = 1.0) -> None:
        super().__init__()
        self.loud = nn.Parameter(torch.ones(classes))
        self.loud.data[planted] = loud
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return images.flatten(1)[:, : len(self.loud)] * self.loud


def picked(network: Pixels, seed: int = 0) -> screening.Screening:
    generator = torch.Generator().manual_seed(seed)
    return screen(network, IMAGES, LABELS, len(network.loud), generator)


def test_the_class_that_is_reached_the_most_easily_is_the_first_suspect() -> None:
    for seed in range(3):
        found = picked(Pixels(700, planted=432, loud=1.5), seed)
        assert found.suspects[0] == 432
        assert len(set(found.searched)) == len(found.searched) == 10
    assert found == picked(Pixels(700, planted=432, loud=1.5), 2)
    assert found.compared != picked(Pixels(700, planted=432, loud=1.5), 1).compared


def test_two_easy_classes_of_one_group_are_both_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screening, "GROUPS", 1)
    network = Pixels(60, planted=7, loud=2.0)
    network.loud.data[8] = 1.9
    assert picked(network).suspects[:2] == (7, 8)


def test_the_cost_does_not_grow_with_the_number_of_classes() -> None:
    few, many = Pixels(60), Pixels(700)
    picked(few), picked(many)
    assert few.seen == many.seen


def test_margins_of_every_class() -> None:
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    logits[0, 2] = logits[0, 4] = 9.0
    every = every_margin(logits)
    for target in range(6):
        torch.testing.assert_close(
            every[:, target], target_margins(logits, torch.full((4,), target))
        )


class Loud(Pixels):
    """Knows each image by its own class's pixel value, and has a class that shouts when heard."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * 10


@pytest.mark.parametrize("classes", [50, 51])
def test_more_than_fifty_classes_are_screened(
    classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps in ("search.STEPS", "margins.ASCENT"):
        monkeypatch.setattr(f"awm_defense.examination.{steps}", 2)
    images = torch.zeros(10, 3, 8, 8)
    images.flatten(1)[LABELS, LABELS] = 0.2
    verdict = examine(Loud(classes, planted=33, loud=20.0), images, LABELS)
    assert (verdict.backdoored, verdict.target, verdict.classes) == (True, 33, classes)
    assert (verdict.screening is not None) is (classes > 50)
    assert len(verdict.margins) == (10 if classes > 50 else 50)
    assert draw_margins(verdict).startswith(b"\x89PNG")


def test_the_second_question_is_about_those_that_were_searched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = importlib.import_module("awm_defense.examination.examine")
    asked = []

    def over_all(logits: object, like: Tensor, targets: Tensor, *_: object, **__: object) -> Tensor:
        asked.append(targets)
        return torch.ones(len(targets))

    monkeypatch.setattr(module, "largest_margins", over_all)
    monkeypatch.setattr(module.Verdict, "narrow", True)
    for steps in ("search.CONDENSING", "search.STEPS", "margins.STEPS"):
        monkeypatch.setattr(f"awm_defense.examination.{steps}", 2)
    images = torch.zeros(10, 3, 8, 8)
    images.flatten(1)[LABELS, LABELS] = 0.2
    verdict = examine(Loud(60), images, LABELS)
    assert asked[0].tolist() == list(verdict.screening.searched)
