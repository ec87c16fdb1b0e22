"""How many steps a phase has."""

from __future__ import annotations

import pytest
import torch

from awm_defense import get_recipe
from awm_defense.awm.batches import Batches

STEPS = [
    # One a class: fixed copies tenfold the images; 100 // 32.
    ("official", 10, True, 5 * 3),
    ("official", 500, False, 5 * 3),
    ("official", 5000, False, 5 * 39),
    # Of fresh draws always as many.
    ("default", 3, True, 5 * 3),
    ("default", 10, True, 5 * 3),
    ("default", 43, True, 5 * 3),
    ("default", 50, False, 5 * 3),
    ("default", 5000, False, 5 * 3),
]


@pytest.mark.parametrize(("name", "number", "one_shot", "steps"), STEPS)
def test_steps_of_a_phase(name: str, number: int, one_shot: bool, steps: int) -> None:
    recipe = get_recipe(name).resolve(number, number if one_shot else 10, 3)
    images, labels = torch.zeros(number, 3, 1, 1), torch.zeros(number, dtype=torch.int64)
    batches = Batches(images, labels, recipe, one_shot, 0)
    assert batches.steps == steps
    assert batches.draw().images.shape == (steps, batches.batch)
    assert batches.batch == (32 if one_shot else 128)
