"""Memory is bounded by the images that go through a network at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from awm_defense import examine, get_recipe, purify
from awm_defense.data import Dataset, draw_defender
from awm_defense.pixel_model import PixelModel
from awm_defense.portions import Portions
from awm_defense.working.at_once import bytes_per_image, images_at_once


class Counted(nn.Sequential):
    """Keeps the largest batch it was given."""

    most = 0

    def forward(self, images: Tensor) -> Tensor:
        type(self).most = max(self.most, len(images))
        return super().forward(images)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))


def test_portions_change_neither_logits_nor_gradients() -> None:
    model, images = network().double(), torch.rand(7, 3, 8, 8, dtype=torch.float64)
    found = []
    for at_once in (7, 3, 1):
        counted = Counted(*model)
        Counted.most = 0
        leaf = images.clone().requires_grad_()
        portions = Portions()
        portions.most = at_once
        logits = portions(counted, leaf)
        # The loss need not be a sum over images.
        loss = logits.logsumexp(1).square().mean().sqrt()
        found.append((logits, *torch.autograd.grad(loss, [leaf, *model.parameters()])))
        assert Counted.most == at_once
        with torch.no_grad():
            assert torch.allclose(portions(counted, images), logits)
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two)


def test_what_is_kept_of_an_image_is_measured() -> None:
    """Three channels that the convolution reads and four that the rectifier made, of 8x8."""
    images = torch.rand(2, 3, 8, 8)
    model = PixelModel(network(), images)
    kept = 4 * (3 + 4) * 8 * 8
    assert bytes_per_image(model, images[:1]) == kept
    # Half of what may be used.
    assert images_at_once(model, images, 20 * kept / 2**30) == 10
    assert images_at_once(model, images, 1e-9) == 1
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="max_memory: expected a number"):
            images_at_once(model, images, wrong)


def test_the_network_stays_as_it_is() -> None:
    images, model = torch.rand(2, 3, 8, 8), network().train()
    bytes_per_image(PixelModel(model, images), images[:1])
    assert model.training and all(value.grad is None for value in model.parameters())


def test_purify_within_little_memory(
    digits: Dataset, tiny_network: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three images at a time give the masks of all at once, but for rounding."""
    images, labels, _ = draw_defender(*digits.train(), per_class=1, seed=0)
    images, model = images.double(), tiny_network.double().eval()
    each = bytes_per_image(PixelModel(model, images), images[:1])
    recipe = replace(get_recipe("official"), epochs=1)
    batches = set()
    split = Portions.__call__

    def watched(portions: Portions, network: Any, images: Tensor) -> Tensor:
        batches.add(min(len(images), portions.most or len(images)))
        return split(portions, network, images)

    monkeypatch.setattr(Portions, "__call__", watched)
    few, all_of_them = (
        purify(model, images, labels, recipe=recipe, max_memory=max_memory)
        for max_memory in (7 * each / 2**30, None)
    )
    assert 3 in batches and max(batches) > 3
    assert not all_of_them.masks["0"].eq(1).all()
    for name, mask in all_of_them.masks.items():
        torch.testing.assert_close(few.masks[name], mask, rtol=0, atol=1e-6)


def test_examine_within_little_memory(
    digits: Dataset, tiny_network: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps in ("search.CONDENSING", "search.STEPS", "margins.STEPS", "margins.ASCENT"):
        monkeypatch.setattr(f"awm_defense.examination.{steps}", 2)
    images, labels, _ = draw_defender(*digits.train(), per_class=1, seed=0)
    each = bytes_per_image(PixelModel(tiny_network.eval(), images), images[:1])
    model, found = Counted(*tiny_network).eval(), []
    for at_once in (3, 25):
        Counted.most = 0
        found.append(examine(model, images, labels, max_memory=2.1 * at_once * each / 2**30))
        assert Counted.most == (3 if at_once == 3 else 20)
    assert found[0].target == found[1].target
    torch.testing.assert_close(found[0].margins, found[1].margins, rtol=1e-3, atol=1e-3)
