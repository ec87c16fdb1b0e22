"""Patches of one image in another, and changes of colour."""

from __future__ import annotations

import pytest
import torch

from awm_defense.awm.batches import Batches
from awm_defense.awm.recipe import get_recipe
from awm_defense.data.mix import PATCH, cutmix, draw_boxes, draw_factors, jitter


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_patches_come_from_the_image_before() -> None:
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 2, 6, 8)
    #                    top, left, height, width
    boxes = torch.tensor([[1, 2, 3, 4], [0, 0, 0, 8], [0, 0, 6, 1]], dtype=torch.float32).T
    mixed = cutmix(images, boxes)
    expected = images.clone()
    expected[0, :, 1:4, 2:6] = 2
    expected[2, :, :, 0] = 1
    assert torch.equal(mixed, expected)


def test_boxes_have_the_areas_and_the_share_asked_for() -> None:
    shape = torch.Size((4000, 3, 32, 32))
    boxes = draw_boxes(shape, generator(), 0.3)
    top, left, height, width = boxes
    drawn = height > 0
    assert float(drawn.double().mean()) == pytest.approx(0.3, abs=0.03)
    area = (height * width)[drawn] / 1024
    assert PATCH[0] - 0.01 < area.min() < 0.06
    assert 0.36 < area.max() < PATCH[1] + 0.03
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 32).all() and (left + width <= 32).all()
    assert torch.equal(boxes, draw_boxes(shape, generator(), 0.3))


def test_jitter_changes_contrast_and_colours() -> None:
    images = torch.tensor([0.4, 0.6]).repeat(2, 3, 4, 2)
    factors = torch.tensor([[2.0, 1.0], [1.0, 0.5], [1.0, 1.0], [1.0, 2.0]])
    changed = jitter(images, factors)
    # Twice the contrast about the mean of 0.5.
    torch.testing.assert_close(changed[0, 0, 0], torch.tensor([0.3, 0.7, 0.3, 0.7]))
    torch.testing.assert_close(changed[1, 0, 0], torch.tensor([0.2, 0.3, 0.2, 0.3]))
    torch.testing.assert_close(changed[1, 1], images[1, 1])
    torch.testing.assert_close(changed[1, 2, 0], torch.tensor([0.8, 1.0, 0.8, 1.0]))


def test_factors_stay_within_what_was_asked_for() -> None:
    factors = draw_factors(torch.Size((5000, 3, 8, 8)), generator(), 0.4)
    assert factors.shape == (4, 5000)
    assert 0.6 <= factors.min() < 0.61 and 1.39 < factors.max() <= 1.4


def test_batches_are_augmented_as_their_phase_says() -> None:
    """Without crops and flips, each image is its original, patched and coloured."""
    images = torch.rand(4, 3, 8, 8, generator=generator())
    options = {"crop_scale": "1", "flip": "false", "cutmix": "0.5", "jitter": "0.4"}
    recipe = get_recipe("default").with_options(options).resolve(4, 4, 192)
    batches = Batches(images, torch.arange(4), recipe, True, 0)
    phase = batches.draw()
    for step in range(batches.steps):
        batch = batches.take(phase, torch.tensor([step]))
        made = jitter(cutmix(images[batch.chosen], phase.boxes[step]), phase.factors[step])
        torch.testing.assert_close(batch.images, made)


@pytest.mark.parametrize("key", ["cutmix", "jitter"])
@pytest.mark.parametrize(
    ("options", "part"),
    [({}, "without fresh_augmentation"), ({"fresh_augmentation": "true"}, "from 0 to 1, got 2")],
)
def test_wrong_settings_are_named(key: str, options: dict[str, str], part: str) -> None:
    with pytest.raises(ValueError, match=f"{key}: expected .*{part}"):
        get_recipe("official").with_options({key: "2" if options else "0.5", **options})
