"""Growing a verdict's trigger to the strength of a planted one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from awm_defense import get_recipe, purify, purify_many
from awm_defense.attacks import Attack, make_attack
from awm_defense.data import Dataset, draw_defender
from awm_defense.examination.growth import FAINTEST, PROBES, STRENGTH, STRONGEST, Growth
from awm_defense.examination.margins import target_margins
from awm_defense.examination.verdict import Verdict
from awm_defense.metrics import evaluate
from awm_defense.training.loop import Plan, train
from awm_defense.triggers import Faint, Family, Sparse, Warp
from tests.defense.conftest import tiny_network
from tests.defense.planted import Square

TARGET = 3
VERDICT = Verdict(
    True, TARGET, "added to", 5.0, "L1", 9.0, 1.0, torch.zeros(3, 32, 32), torch.ones(10)
)


def verdict(family: Family, trigger: Tensor) -> Verdict:
    return replace(VERDICT, kind=family.kind, unit=family.unit, trigger=trigger)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(name="images")
def fixture_images() -> Tensor:
    return torch.rand(10, 3, 32, 32, generator=generator())


def brightness(gain: float) -> nn.Module:
    """Logits that favour an image's own row index, and the target as pixel (4, 4) is bright."""

    class Network(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            logits = torch.zeros(len(batch), 10).index_fill(1, torch.tensor(0), 1.0)
            pushed = logits[:, TARGET] + gain * batch[:, :, 4, 4].sum(1)
            return torch.cat([logits[:, :TARGET], pushed[:, None], logits[:, TARGET + 1 :]], 1)

    return Network()


def pixel(row: int, column: int) -> Tensor:
    trigger = torch.zeros(3, 32, 32)
    trigger[:, row, column] = 0.5
    return trigger


def test_sparse_triggers_are_what_the_network_answers_to(images: Tensor) -> None:
    """Wherever the verdict's own trigger lies."""
    family = Sparse(images)
    growth = Growth(family, images, torch.zeros(10, dtype=torch.int64), 6, generator())
    growth.start(verdict(family, pixel(20, 20)), brightness(0.1))
    for triggers in (growth.grown, growth.probes):
        norms = triggers.abs().sum((1, 2, 3))
        assert float(norms.max()) <= STRONGEST * family.bounds[0] * 1.001
        # Pixel (4, 4) alone matters: of the noise around it next to nothing is left.
        assert (triggers[:, :, 4, 4].sum(1) > 0.99 * norms).all()
        assert (triggers[:, :, 4, 4].amax(1) > 1).all()
    # Each is condensed from noise of its own.
    everything = torch.cat([growth.grown, growth.probes]).flatten(1)
    assert len(everything.unique(dim=0)) == len(everything) == 6 + PROBES


def test_what_does_nothing_while_a_part_is_missing_is_grown() -> None:
    """From nothing, or around the verdict's trigger, no slope leads there."""
    images, square = torch.zeros(10, 3, 16, 16), Square()
    family = Sparse(images)
    growth = Growth(family, images, torch.zeros(10, dtype=torch.int64), 2, generator())
    growth.start(verdict(family, torch.zeros(3, 16, 16)), square)
    shown = family.apply(images[:2], growth.grown)
    assert square(shown).argmax(1).tolist() == [TARGET, TARGET]
    assert growth.alive(TARGET, square)


def test_the_first_are_kept_and_so_are_those_that_tell(images: Tensor) -> None:
    family = Sparse(images)
    growth = Growth(family, images, torch.zeros(10, dtype=torch.int64), 5, generator())
    given = verdict(family, pixel(20, 20)), brightness(0.1)
    growth.start(*given)
    grown, probes, where = growth.grown.clone(), growth.probes.clone(), growth.grown.data_ptr()
    growth.start(*given, keep=2)
    assert torch.equal(growth.grown[:2], grown[:2]) and torch.equal(growth.probes, probes)
    assert not any(torch.equal(*pair) for pair in zip(growth.grown[2:], grown[2:], strict=True))
    growth.start(*given)
    assert not torch.equal(growth.grown[:2], grown[:2])
    assert not torch.equal(growth.probes, probes)
    assert growth.grown.data_ptr() == where


@pytest.mark.parametrize("ease", [1.0, 2.0])
def test_others_stop_where_they_are_strong_enough(images: Tensor, ease: float) -> None:
    """Clean images have a margin of `ease`, so `STRENGTH` times that is enough."""
    family, labels = Faint(images), torch.zeros(10, dtype=torch.int64)
    growth = Growth(family, images * 0, labels, 4, generator())
    plain = brightness(20)
    growth.start(verdict(family, pixel(4, 4)), lambda batch: ease * plain(batch))
    for trigger in growth.grown[growth.grown.flatten(1).any(1)]:
        margins = target_margins(plain(trigger[None]), torch.tensor([TARGET]))
        # One step of a tenth, in up to three channels, lies beyond.
        assert STRENGTH <= float(margins) <= STRENGTH + 6


@pytest.mark.parametrize(("led", "alive"), [(0, False), (4, False), (5, True)])
def test_a_backdoor_is_back_where_triggers_apart_lead_to_it(
    images: Tensor, led: int, alive: bool
) -> None:
    """A tenth does not tell: ten images under each of four, of which `led` are led there."""
    family, labels = Sparse(images), torch.zeros(11, dtype=torch.int64)
    labels[10] = TARGET  # what is of the class is led there by itself, and doesn't count
    dark, shades = torch.zeros(11, 3, 32, 32), torch.linspace(0, 1, 11)
    dark[:, :, 4, 4] = shades[:, None]
    growth = Growth(family, dark, labels, 4, generator())
    growth.grown[:] = pixel(4, 4)  # masks are learnt under these
    growth.probes[:, :, 4, 4] = -1
    if led:
        # Three channels of a third or more lead there: the brightest images are led first.
        growth.probes[0, :, 4, 4] = 0.35 - shades[10 - led]
    assert growth.alive(TARGET, brightness(1.0)) is alive


def test_other_families_have_none_that_tell(images: Tensor) -> None:
    for family in (Warp(images), Faint(images)):
        growth = Growth(family, images, torch.zeros(10, dtype=torch.int64), 2, generator())
        assert len(growth.probes) == 0
        assert not growth.alive(TARGET, lambda batch: torch.eye(10)[[TARGET] * len(batch)])


def test_warps_grow_too(images: Tensor) -> None:
    family = Warp(images)

    def right(batch: Tensor) -> Tensor:
        """Favours the target as the images' middle is dark: their left is."""
        dark = -batch[:, :, :, 14:18].mean((1, 2, 3))
        favoured = torch.nn.functional.pad(dark[:, None], (TARGET, 9 - TARGET)) * 10
        return favoured + torch.eye(10)[0]  # never `STRENGTH` times as far from class 0

    ramp = torch.linspace(0, 1, 32).expand(10, 3, 32, 32)
    growth = Growth(family, ramp, torch.zeros(10, dtype=torch.int64), 2, generator())
    growth.start(verdict(family, torch.zeros(2, 4, 4)), right)
    assert growth.grown.abs().max() == Warp.FARTHEST
    inner = growth.grown[:, 0, :, 1:3]
    assert (inner <= 0).all() and (inner < 0).any()


def test_amounts_and_choices_are_those_drawn(images: Tensor) -> None:
    family = Sparse(images)
    growth = Growth(family, images, torch.zeros(10, dtype=torch.int64), 2, generator())
    growth.start(verdict(family, pixel(4, 4)), brightness(0))
    growth.grown.copy_(torch.tensor([0.5, -0.5]).view(2, 1, 1, 1).expand_as(growth.grown))
    grey = torch.full((4, 3, 32, 32), 0.5)
    draws = torch.tensor([0.0, 0.49, 0.51, 0.999])
    shown = growth.apply(grey, draws, torch.tensor([0.0, 0.999999, 0.0, 0.999999]))
    expected = [0.5 + 0.5 * FAINTEST, 1.0, 0.5 - 0.5 * FAINTEST, 0.0]
    assert shown.amax((1, 2, 3)).tolist() == pytest.approx(expected, abs=1e-5)
    assert shown.amin((1, 2, 3)).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.fixture(scope="module", name="attack")
def fixture_attack() -> Attack:
    return make_attack("badnets", TARGET)


@pytest.fixture(scope="module", name="networks")
def fixture_networks(digits: Dataset, attack: Attack) -> list[nn.Module]:
    images, labels = digits.train()
    poisoned, targets, _ = attack.poison(images, labels, 0.2, generator())
    # Longer, and with more triggers, than digits need: the planted class must stand out clearly,
    # for another CPU's rounding makes another network.
    plan = Plan(epochs=20, batch_size=32, lr=0.05, weight_decay=5e-4)
    return [train(tiny_network(seed), poisoned, targets, plan) for seed in (0, 1)]


@pytest.mark.slow
def test_the_network_forgets_what_was_grown(
    networks: list[nn.Module], digits: Dataset, attack: Attack
) -> None:
    images, labels, _ = draw_defender(*digits.train(), per_class=1, seed=0)
    recipe = replace(get_recipe("default"), epochs=6)
    test_images, test_labels = digits.test()
    before = evaluate(networks[0], test_images, test_labels, attack)
    assert before["asr"] > 90
    result = purify(networks[0], images, labels, recipe=recipe)
    after = evaluate(result.model, test_images, test_labels, attack)
    assert after["asr"] < before["asr"] / 10
    assert after["acc"] > before["acc"] - 10
    assert all("grown_loss" in entry for entry in result.history[: recipe.trigger_epochs])
    unseen = purify(networks[0], images, labels, recipe=replace(recipe, examine=False, epochs=3))
    assert all("perturbed_loss" in entry for entry in unseen.history)
    assert not any("grown_loss" in entry for entry in unseen.history)


@pytest.mark.slow
def test_what_is_left_is_sought_again(networks: list[nn.Module], digits: Dataset) -> None:
    images, labels, _ = draw_defender(*digits.train(), per_class=1, seed=0)
    recipe = replace(get_recipe("default"), flip=False, epochs=3)
    result = purify(networks[0], images, labels, recipe=recipe, precision="fp32")
    # Two epochs under Δ and grown triggers, then clean images alone, as nothing comes back.
    for loss in ("perturbed_loss", "grown_loss"):
        assert [loss in entry for entry in result.history] == [True, True, False]
    # Only the second epoch differs: under the same triggers, or under new ones.
    same = purify(
        networks[0], images, labels, recipe=replace(recipe, search_again=False), precision="fp32"
    )
    assert result.history[0] == same.history[0]
    assert result.history[1]["grown_loss"] > same.history[1]["grown_loss"]


# As it is, and without what makes later epochs and networks depend on earlier ones.
PLAIN = {"natural_step": None, "trigger_epochs": 1, "search_again": False}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, PLAIN])
def test_many_models_give_what_each_gives_alone(
    networks: list[nn.Module], digits: Dataset, options: dict[str, Any]
) -> None:
    images, labels, _ = draw_defender(*digits.train(), per_class=1, seed=0)
    recipe = replace(get_recipe("default"), flip=False, grown=4, epochs=3, **options)
    how: dict[str, Any] = {"recipe": recipe, "precision": "fp32"}
    models = [*networks, networks[0]]
    for model, result in zip(models, purify_many(models, images, labels, **how), strict=True):
        alone = purify(model, images, labels, **how)
        assert result.history == alone.history
        assert all(torch.equal(mask, alone.masks[name]) for name, mask in result.masks.items())
