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
from awm_defense.examination.growth import FAINTEST, PROBES, STRENGTH, STRONGEST, Growth, in_squares
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


def test_it_grows_to_saturation_around_what_was_found(images: Tensor) -> None:
    family = Sparse(images)
    growth = Growth(family, images, torch.zeros(10, dtype=torch.int64), 8, generator())
    growth.start(verdict(family, pixel(6, 6)), brightness(0.1))
    # Only pixel (4, 4) matters; a channel has it in reach or, 3 times in 10, not.
    changed = growth.grown.flatten(2).sum((0, 1)).nonzero().flatten().tolist()
    assert changed == [4 * 32 + 4]
    found = growth.grown[:, :, 4, 4]
    # As far as the darkest of the images still gets brighter.
    saturated = (1 - images[:, :, 4, 4].amin(0)).expand(8, 3)
    torch.testing.assert_close(found[found > 0], saturated[found > 0])
    assert 0.4 < float((found > 0).double().mean()) < 0.95
    before = growth.grown.clone()
    growth.start(verdict(family, pixel(20, 20)), brightness(0.1), keep=3)
    assert torch.equal(growth.grown[:3], before[:3]) and before[3:].any()
    assert not growth.grown[3:].any()
    growth.start(verdict(family, pixel(20, 20)), brightness(0.1))
    assert not growth.grown.any()


def test_it_grows_from_a_second_trigger_as_often(images: Tensor) -> None:
    family = Sparse(images)
    growth = Growth(family, images, torch.zeros(10, dtype=torch.int64), 8, generator())
    both = replace(verdict(family, pixel(20, 20)), second=pixel(4, 4))
    growth.start(both, brightness(0.1))
    # Pixel (4, 4), which alone matters, is in reach of every other pair.
    first, second = growth.grown.view(2, 2, 2, -1).unbind(1)
    assert not first.any()
    assert second.any(-1).any(-1).all()


@pytest.mark.parametrize("ease", [1.0, 2.0])
def test_it_stops_where_it_is_strong_enough(images: Tensor, ease: float) -> None:
    """Clean images have a margin of `ease`, so `STRENGTH` times that is enough."""
    family, labels = Sparse(images), torch.zeros(10, dtype=torch.int64)
    growth = Growth(family, images * 0, labels, 4, generator())
    plain = brightness(20)
    growth.start(verdict(family, pixel(4, 4)), lambda batch: ease * plain(batch))
    for trigger in growth.grown[growth.grown.flatten(1).any(1)]:
        margins = target_margins(plain(trigger[None]), torch.tensor([TARGET]))
        # One step of a tenth, in up to three channels, lies beyond.
        assert STRENGTH <= float(margins) <= STRENGTH + 6


def test_those_from_noise_are_what_the_network_answers_to(images: Tensor) -> None:
    """Wherever the verdict's own trigger lies: all where sizes told, else those that tell alone."""
    family = Sparse(images)
    growth = Growth(family, images, torch.zeros(10, dtype=torch.int64), 6, generator())
    given = verdict(family, pixel(20, 20))
    growth.start(given, brightness(0.1))
    assert not growth.grown.any()
    around = growth.probes.clone()
    assert_lead(around, family)
    for asked, condensed in ((given, True), (replace(given, radii=torch.ones(10)), False)):
        growth.start(asked, brightness(0.1), condensed=condensed)
        assert_lead(growth.grown, family)
        # They come first.
        assert torch.equal(growth.probes, around)
        # Each is condensed from noise of its own.
        everything = torch.cat([growth.grown, growth.probes]).flatten(1)
        assert len(everything.unique(dim=0)) == len(everything) == 6 + PROBES


def assert_lead(triggers: Tensor, family: Sparse) -> None:
    """Pixel (4, 4) alone matters: but for the square that it is in next to nothing is left."""
    norms = triggers.abs().sum((1, 2, 3))
    assert float(norms.max()) <= STRONGEST * family.bounds[0] * 1.001
    assert (triggers[:, :, 1:8, 1:8].sum((1, 2, 3)) > 0.99 * norms).all()
    assert (triggers[:, :, 4, 4].amax(1) > 1).all()


def test_what_does_nothing_while_a_part_is_missing_is_condensed() -> None:
    """From nothing, or around the verdict's trigger, no slope leads there."""
    images, square = torch.zeros(10, 3, 32, 32), Square()
    family = Sparse(images)
    growth = Growth(family, images, torch.zeros(10, dtype=torch.int64), 2, generator())
    growth.start(verdict(family, torch.zeros(3, 32, 32)), square, condensed=True)
    shown = family.apply(images[:2], growth.grown)
    assert square(shown).argmax(1).tolist() == [TARGET, TARGET]
    assert growth.alive(TARGET, square)


def test_triggers_are_of_squares_by_turns(images: Tensor) -> None:
    """Of every second pair: of an eighth of the image's side, and of a sixteenth."""
    growth = Growth(Sparse(images), images, torch.zeros(10, dtype=torch.int64), 9, generator())
    growth.start(verdict(Sparse(images), pixel(20, 20)), brightness(0.1), condensed=True)
    sides = [round(float((trigger.abs().amax(0) > 0.5).sum()) ** 0.5) for trigger in growth.grown]
    assert sides == [1, 1, 4, 4, 1, 1, 2, 2, 1]


def test_squares_are_shown_shifted_and_cut() -> None:
    colours = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
    pixels = in_squares(colours, side=2, shift=[1, 0], height=3, width=4)
    assert pixels[0, 0].tolist() == [[3, 3, 4, 4], [1, 1, 2, 2], [1, 1, 2, 2]]


def test_the_first_are_kept_and_so_are_those_that_tell(images: Tensor) -> None:
    family = Sparse(images)
    growth = Growth(family, images, torch.zeros(10, dtype=torch.int64), 5, generator())
    given = replace(verdict(family, pixel(20, 20)), radii=torch.ones(10)), brightness(0.1)
    growth.start(*given)
    grown, probes, where = growth.grown.clone(), growth.probes.clone(), growth.grown.data_ptr()
    for keep in (2, 0):
        growth.start(*given, keep=keep)
        kept = (growth.grown == grown).flatten(1).all(1).tolist()
        assert kept == [True] * keep + [False] * (5 - keep)
        assert torch.equal(growth.probes, probes)
    # The next network's are as if it were the first.
    growth.start(*given)
    assert torch.equal(growth.grown, grown) and torch.equal(growth.probes, probes)
    assert growth.grown.data_ptr() == where


@pytest.mark.parametrize(("room", "half"), [(5, 2), (1, 0)])
def test_the_first_half_is_held_to_another_network(images: Tensor, room: int, half: int) -> None:
    family = Sparse(images)
    growth = Growth(family, images, torch.zeros(10, dtype=torch.int64), room, generator())
    given = verdict(family, pixel(20, 20))
    growth.start(given, brightness(0.0))
    probes = growth.probes.clone()
    growth.hold(given, brightness(0.1))
    if half:
        assert_lead(growth.grown[:half], family)
    assert not growth.grown[half:].any()
    assert torch.equal(growth.probes, probes)


@pytest.mark.parametrize(
    ("count", "led", "alive"), [(10, 0, False), (10, 1, True), (30, 2, False), (30, 3, True)]
)
def test_a_backdoor_is_back_where_triggers_apart_lead_to_it(
    count: int, led: int, alive: bool
) -> None:
    """More than two in a hundred: so many images under each of four, of which `led` are led."""
    images = torch.zeros(count + 2, 3, 32, 32)
    # Three channels of more than a third each lead there, and so do the last two by themselves.
    shades = torch.cat([torch.linspace(0, 0.3, count), torch.tensor([0.5, 0.5])])
    images[:, :, 4, 4] = shades[:, None]
    labels = torch.zeros(count + 2, dtype=torch.int64)
    labels[count - 1] = TARGET  # the network says otherwise
    growth = Growth(Sparse(images), images, labels, 4, generator())
    growth.grown[:] = pixel(4, 4)  # masks are learnt under these
    growth.probes[:, :, 4, 4] = -1
    if led:
        growth.probes[0, :, 4, 4] = 0.334 - shades[count - led]
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
    growth.probes.fill_(torch.nan)  # they are never among those shown
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
    recipe = replace(get_recipe("default"), flip=False, epochs=2)
    result = purify(networks[0], images, labels, recipe=recipe, precision="fp32")
    for loss in ("perturbed_loss", "grown_loss"):
        assert [loss in entry for entry in result.history] == [True, True]
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
