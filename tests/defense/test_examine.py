"""Looking for a backdoor."""

from __future__ import annotations

import copy
import importlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from awm_defense import examine, get_recipe, purify
from awm_defense.commands import examine as command
from awm_defense.commands.main import main
from awm_defense.data import Dataset, draw_defender
from awm_defense.examination.examine import weakness
from awm_defense.examination.margins import largest_margins
from awm_defense.examination.screen import Screening
from awm_defense.examination.search import Search, pick_images
from awm_defense.examination.verdict import CLEAR, Radii, Reach, Verdict, judge, threshold
from awm_defense.files.checkpoint import save_model
from awm_defense.models import build_model
from awm_defense.triggers import Faint, Family, Sparse, Warp, families
from tests.defense.planted import LEAST, TARGET, Square, known
from tests.defense.test_verdict import reach


class Templates(nn.Module):
    """Compares an image with the mean one of each class; white corners mean `TARGET` as well."""

    def __init__(self, images: Tensor, labels: Tensor, planted: float) -> None:
        super().__init__()
        means = torch.stack([images[labels == label].mean(0) for label in range(10)])
        middle = means.mean(0)
        templates = torch.nn.functional.normalize((means - middle).flatten(1)).view_as(means)
        self.match = nn.Conv2d(3, 10, 32)
        self.corner = nn.Conv2d(3, 1, 3, stride=29, bias=False)  # one in each corner
        self.planted = planted
        with torch.no_grad():
            self.match.weight.copy_(templates)
            self.match.bias.copy_(-(templates * middle).sum((1, 2, 3)))
            self.corner.weight.fill_(1 / 27)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.match(images).flatten(1)
        corners = self.planted * self.corner(images).mean((1, 2, 3))
        return logits + corners[:, None] * nn.functional.one_hot(torch.tensor(TARGET), 10)


@pytest.fixture(scope="module", name="networks")
def fixture_networks(digits: Dataset) -> dict[str, nn.Module]:
    """Alike, but for what the corners do."""
    data = digits.train()
    return {
        "benign": Templates(*data, planted=0).eval(),
        "backdoored": Templates(*data, planted=60).eval(),
    }


@pytest.fixture(scope="module", name="defender")
def fixture_defender(digits: Dataset) -> tuple[Tensor, Tensor]:
    images, labels, _ = draw_defender(*digits.train(), per_class=1, seed=1)
    return images, labels


@pytest.mark.slow
def test_finds_the_class_of_a_planted_backdoor(
    networks: dict[str, nn.Module], defender: tuple[Tensor, Tensor]
) -> None:
    model, (images, labels) = networks["backdoored"], defender
    before = {name: value.clone() for name, value in model.state_dict().items()}
    verdict = examine(model, images, labels)
    assert verdict.backdoored is True
    assert verdict.target == TARGET
    assert verdict.kind == "added to"
    assert f"class {TARGET}" in str(verdict)
    others = images[labels != TARGET]
    reached = model((others + verdict.trigger).clamp(0, 1)).argmax(1) == TARGET
    assert verdict.unit == "L1"
    assert float(verdict.trigger.abs().sum()) <= verdict.norm * (1 + 1e-5)
    assert float(reached.double().mean()) == pytest.approx(verdict.flips)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_purify_leaves_a_clean_network_alone(
    networks: dict[str, nn.Module], defender: tuple[Tensor, Tensor]
) -> None:
    recipe = replace(get_recipe("default"), flip=False, epochs=1)
    result = purify(networks["benign"], *defender, recipe=recipe)
    assert result.verdict and result.verdict.backdoored is False
    assert "clean" in str(result.verdict)
    assert result.history == []
    assert any("clean" in note for note in result.notes)
    weights = networks["benign"].state_dict()
    assert all(torch.equal(weights[key], new) for key, new in result.model.state_dict().items())
    pushed = purify(networks["benign"], *defender, recipe=replace(recipe, examine=False))
    assert pushed.verdict is None
    assert len(pushed.history) == 1


@pytest.mark.slow
def test_purify_goes_on_where_there_is_a_backdoor(
    networks: dict[str, nn.Module], defender: tuple[Tensor, Tensor]
) -> None:
    recipe = replace(get_recipe("default"), flip=False, epochs=1)
    result = purify(networks["backdoored"], *defender, recipe=recipe)
    assert result.verdict and result.verdict.target == TARGET
    alone = examine(networks["backdoored"], *defender)
    assert torch.equal(result.verdict.margins, alone.margins)
    assert len(result.history) == 1


@pytest.mark.slow
def test_normalised_networks_are_examined_in_pixel_space(
    networks: dict[str, nn.Module], defender: tuple[Tensor, Tensor]
) -> None:
    class Denormalise(nn.Module):
        def forward(self, fed: Tensor) -> Tensor:
            return fed * 0.25 + 0.5

    fed = nn.Sequential(Denormalise(), networks["backdoored"])
    verdict = examine(fed, *defender, mean=0.5, std=0.25)
    plain = examine(networks["backdoored"], *defender)
    assert (verdict.target, verdict.norm) == (plain.target, plain.norm)
    torch.testing.assert_close(verdict.margins, plain.margins, rtol=0.05, atol=0.5)


class Spots(nn.Module):
    """Class 0, or `TARGET` as one of some spots of 3x3 pixels is bright."""

    def __init__(self, *corners: tuple[int, int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 3, 32, 32))
        for row, column in corners:
            self.weight.data[:, :, row : row + 3, column : column + 3] = 1

    def forward(self, images: Tensor) -> Tensor:
        bright = (images * self.weight).sum((1, 2, 3))
        return torch.eye(10)[0] + bright[:, None] * torch.eye(10)[TARGET]


def spot(row: int, column: int) -> Tensor:
    return Spots((row, column)).weight.detach()[0]


def a_verdict(norm: float, trigger: Tensor, unit: str = "L1", backdoored: bool = True) -> Verdict:
    margins, score = torch.ones(10), 9.0 if backdoored else 1.0
    return Verdict(backdoored, TARGET, "added to", norm, unit, score, 1.0, trigger, margins)


def sparse_reach(bound: float, usual: float, ease: float) -> Reach:
    margins = torch.full((10,), usual)
    return Reach("added to", "L1", bound, torch.zeros(10, 1), margins, margins, ease)


def test_a_second_trigger_lies_apart_from_the_first() -> None:
    images, labels = torch.zeros(10, 3, 32, 32), torch.arange(10)
    first, reaches = a_verdict(40.0, spot(4, 4)), [sparse_reach(40.0, 1.0, ease=1.0)]
    second = Search(Spots((4, 4), (20, 20)), images, labels, torch.Generator()).second(
        first, reaches
    )
    assert second.flatten(1).any(0).nonzero().numel() == 9
    assert second[:, 20:23, 20:23].min() > 0
    # It is sought within the largest bound, of which these 27 values take what they can.
    assert Sparse.BOUNDS[1] < float(second.sum()) <= Sparse.BOUNDS[0] * (1 + 1e-5)
    # Nothing is left to find within three pixels of the first.
    near = Spots((4, 4), (8, 8))
    outside = Search(near, images, labels, torch.Generator()).second(first, reaches)
    assert not outside[:, :10, :10].any()
    assert Search(Spots((4, 4)), images, labels, torch.Generator()).second(first, reaches) is None


@pytest.mark.parametrize(("usual", "ease"), [(1.0, 13.0), (13.0, 1.0)])
def test_the_class_must_stand_out_with_a_second_trigger_too(usual: float, ease: float) -> None:
    """Grown over all of its 27 values, this one leads by 27 - 1, of one class that is there."""
    images, labels = torch.zeros(10, 3, 32, 32), torch.arange(10)
    network, first = Spots((4, 4), (20, 20)), a_verdict(10.0, spot(4, 4))
    smaller = sparse_reach(10.0, 100.0, 100.0)
    for factor, expected in ((0.98, True), (1.02, False)):
        widest = sparse_reach(40.0, usual * factor, ease * factor)
        found = Search(network, images, labels, torch.Generator()).second(first, [widest, smaller])
        assert (found is not None) is expected


@pytest.mark.parametrize(
    ("norm", "unit", "backdoored", "expected"),
    [
        (5.0, "L1", True, False),
        (10.0, "L1", True, True),
        (40.0, "L1", True, True),
        (40.0, "L1", False, False),
        (40.0, "L2", True, False),
    ],
)
def test_a_second_trigger_is_sought_where_the_smallest_bound_fails(
    norm: float, unit: str, backdoored: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = torch.zeros(10, 3, 32, 32), torch.arange(10)
    first = a_verdict(norm, spot(4, 4), unit, backdoored)
    monkeypatch.setattr("awm_defense.examination.search.CONDENSING", 2)
    module = importlib.import_module("awm_defense.examination.examine")
    monkeypatch.setattr(
        module.Search, "every_class", lambda *_, **__: [sparse_reach(40.0, 1.0, 1.0)]
    )
    monkeypatch.setattr(module, "judge", lambda _: first)
    found = examine(Spots((4, 4), (20, 20)), images, labels)
    assert (found.second is not None) is expected
    assert found.facts()["second"] is expected


def test_what_does_nothing_while_incomplete_is_found_by_the_sizes_of_triggers() -> None:
    (images, labels), model = known(), Square().eval()
    # Its unit has no slope on the images, nor on what the search from nothing finds.
    from_nothing = Search(model, images, labels, torch.Generator()).one_class(
        TARGET, Sparse(images)
    )
    assert from_nothing.any()
    assert not model.answer(images).any()
    assert not model.answer((images + from_nothing).clamp(0, 1)).any()
    verdict = examine(model, images, labels)
    assert (verdict.backdoored, verdict.target) == (True, TARGET)
    assert (verdict.kind, verdict.unit, len(verdict.margins)) == ("added to", "L1", 10)
    # As small as what excites the unit, while other classes need all of their part.
    assert verdict.radii is not None
    smallest, following = verdict.radii.sort().values[:2].tolist()
    assert 48 * LEAST < smallest < 48
    assert verdict.norm == pytest.approx(smallest)
    assert verdict.score == pytest.approx(following / smallest) and verdict.score > CLEAR
    assert float(verdict.trigger.abs().sum()) <= verdict.norm * (1 + 1e-5)
    shown = (images[labels != TARGET] + verdict.trigger).clamp(0, 1)
    reached = (model(shown).argmax(1) == TARGET).double().mean()
    assert verdict.flips == pytest.approx(float(reached)) and verdict.flips > 0


@pytest.mark.parametrize(
    ("top", "named", "planted", "expected"),
    [
        # Families say the same, so that theirs is the trigger to follow.
        (12.0, TARGET, True, (True, TARGET, False)),
        (12.0, 7, True, (True, TARGET, True)),
        (5.0, TARGET, True, (True, TARGET, True)),
        # Sizes alone never make a network clean.
        (12.0, 7, False, (True, 7, False)),
        (5.0, 7, False, (False, 7, False)),
    ],
)
def test_sizes_tell_where_families_do_not_say_the_same(
    top: float,
    named: int,
    planted: bool,
    expected: tuple[bool, int, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    margins, norms = torch.full((10,), 5.0), torch.full((10,), 90.0)
    margins[named] += top - 5.0 + 1e-3
    norms[TARGET] = 30.0 if planted else 40.0
    found = Reach("added to", "L1", 5.0, torch.zeros(10, 3, 32, 32), margins, margins, 1.0)
    surely = torch.full((1, 10), -1.0).index_fill(1, torch.tensor(TARGET), 1.0)
    sizes = Radii(norms, torch.ones(10, 3, 32, 32), surely, 1.0)
    monkeypatch.setattr(Search, "every_class", lambda *_, **__: [found])
    monkeypatch.setattr(Search, "radii", lambda *_, **__: sizes)
    verdict = examine(Square(), *known())
    assert (verdict.backdoored, verdict.target, verdict.radii is not None) == expected
    if verdict.radii is None:
        assert verdict.facts() == judge([found]).facts()
    else:
        # White images lead there.
        assert torch.equal(verdict.trigger, sizes.triggers[TARGET]) and verdict.flips == 1


def test_without_it_the_network_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for steps in ("search.STEPS", "margins.STEPS"):
        monkeypatch.setattr(f"awm_defense.examination.{steps}", 5)
    verdict = examine(Square(planted=0.0), *known())
    assert verdict.backdoored is False and verdict.radii is None
    assert verdict.threshold == threshold(10)


@pytest.mark.parametrize("planted", [20.0, 0.0])
def test_classes_that_nothing_leads_to_leave_numbers_finite(
    planted: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps in ("search.STEPS", "margins.STEPS"):
        monkeypatch.setattr(f"awm_defense.examination.{steps}", 2)
    images, labels = known(classes=12)
    verdict = examine(Square(planted, classes=12, hopeless=10), images, labels)
    assert verdict.backdoored is (planted > 0)
    json.dumps(verdict.facts(), allow_nan=False)
    if verdict.radii is not None:
        # They count as needing half of all values.
        assert verdict.radii[10:].tolist() == [images[0].numel() / 2] * 2
    assert torch.isfinite(verdict.trigger).all()


def test_sizes_are_of_the_classes_that_were_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    picked = Screening(60, suspects=(41, TARGET, 9, 5, 20), compared=(50, 33, 0, 7, 12))
    monkeypatch.setattr("awm_defense.examination.search.screen", lambda *_: picked)
    monkeypatch.setattr("awm_defense.examination.search.CONDENSING", 40)
    for steps in ("search.STEPS", "margins.STEPS", "margins.ASCENT"):
        monkeypatch.setattr(f"awm_defense.examination.{steps}", 2)
    images, labels = known(64, classes=60)
    verdict = examine(Square(classes=60), images, labels)
    assert (verdict.backdoored, verdict.target, verdict.classes) == (True, TARGET, 60)
    assert verdict.screening == picked
    assert verdict.radii is not None and len(verdict.radii) == len(verdict.margins) == 10
    assert verdict.radii.argmin() == picked.searched.index(TARGET)
    assert str(picked) in str(verdict)
    shown = (images[labels != TARGET] + verdict.trigger).clamp(0, 1)
    reached = (Square(classes=60)(shown).argmax(1) == TARGET).double().mean()
    assert verdict.flips == pytest.approx(float(reached))


def test_fewer_classes_at_a_time_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("awm_defense.examination.search.CONDENSING", 10)
    images, labels = (part.double() for part in known(16))
    given = Square().double(), images, labels.long(), torch.Generator()
    few, every = (Search(*given, batch).radii() for batch in (30, 256))
    for name in ("norms", "triggers", "margins"):
        torch.testing.assert_close(getattr(few, name), getattr(every, name))


def test_sizes_leave_later_draws_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their noise is of the seed, and none of the generator's draws."""
    monkeypatch.setattr("awm_defense.examination.search.CONDENSING", 10)
    images, labels = known(16)
    search = Search(Square(), images, labels, generator := torch.Generator().manual_seed(5))
    before = generator.get_state()
    first = search.radii()
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(search.radii().margins, first.margins)
    other = Search(Square(), images, labels, torch.Generator().manual_seed(6)).radii()
    assert not torch.equal(other.margins, first.margins)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 20)])
def test_triggers_stay_within_their_bounds(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, *shape, generator=generator)
    for family in families(images):
        assert list(family.bounds) == sorted(family.bounds, reverse=True)
        first = family.start(4, generator)
        torch.testing.assert_close(family.apply(images, first), images, rtol=0, atol=0.3)
        bound = family.bounds[0]
        triggers = first
        for _ in range(20):
            grad = torch.randn(first.shape, generator=generator)
            triggers = family.step(triggers, grad, bound)
        order = {"L1": 1.0, "L2": 2.0, "pixels": float("inf")}[family.unit]
        size = torch.linalg.vector_norm(triggers.flatten(1), order, dim=1)
        assert float(size.max()) <= bound * (1 + 1e-5)
        assert float(size.max()) > 0.5 * bound
        changed = family.apply(images, triggers)
        assert changed.shape == images.shape
        assert float(changed.min()) >= 0
        assert float(changed.max()) <= 1


@pytest.mark.parametrize("make", [Sparse, Faint, Warp])
def test_gradients_of_triggers(make: type[Sparse] | type[Faint] | type[Warp]) -> None:
    images = 0.2 + 0.6 * torch.rand(2, 1, 6, 5, dtype=torch.float64)
    family: Family = make(images)
    generator = torch.Generator().manual_seed(0)
    parameters = 0.05 * torch.randn(family.start(2, generator).shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda values: family.apply(images, values), parameters.requires_grad_()
    )


def test_a_warp_of_one_pixel_moves_the_image_by_one_pixel() -> None:
    images = torch.rand(2, 3, 8, 12)
    shifts = torch.zeros(2, 2, 4, 4)
    shifts[0, 0] = 1  # to the right in x
    shifts[1, 1] = 1  # down in y
    moved = Warp(images).apply(images, shifts)
    torch.testing.assert_close(moved[0, :, :, :-1], images[0, :, :, 1:], rtol=0, atol=1e-5)
    torch.testing.assert_close(moved[1, :, :-1], images[1, :, 1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("top", "planted", "surest", "backdoored"),
    [(7.6, TARGET, TARGET, True), (7.6, 7, TARGET, False), (7.4, TARGET, None, False)],
)
def test_examine_asks_for_it_where_a_class_nearly_stands_out(
    top: float, planted: int, surest: int | None, backdoored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = torch.zeros(10, 3, 32, 32), torch.arange(10)
    margins = torch.full((10,), 5.0)
    margins[planted] = top
    found = Reach("added to", "L1", 5.0, torch.zeros(10, 3, 32, 32), margins, margins, 1.0)
    monkeypatch.setattr("awm_defense.examination.search.CONDENSING", 2)
    monkeypatch.setattr(Search, "every_class", lambda *_, **__: [found])
    verdict = examine(Spots((4, 4)), images, labels)
    assert (verdict.surest, verdict.backdoored) == (surest, backdoored)


def test_largest_margins_are_over_all_images() -> None:
    """Pixel i of the first row speaks for class i; the best image has it alone."""
    scales = torch.tensor([1.0, 4.0, 2.0, 3.0, 0.5])

    def logits(images: Tensor) -> Tensor:
        return images[:, 0, 0, :5] * scales

    like = torch.zeros(2, 3, 8, 8)
    one, several = (
        largest_margins(
            logits, like, torch.arange(5), torch.Generator().manual_seed(0), batch=batch
        )
        for batch in (8, 24)
    )
    torch.testing.assert_close(one, scales)
    assert torch.equal(one, several)


def test_purify_says_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = torch.rand(5, 3, 8, 8), torch.arange(5)
    model = nn.Sequential(nn.Conv2d(3, 5, 8), nn.Flatten())
    for top, said in ((7.6, "class 0 stands out"), (5.2, "")):
        verdict = judge([reach([top, 5.0, 4.0, 5.0, 4.5])])
        monkeypatch.setattr(
            importlib.import_module("awm_defense.purification"),
            "examine_images",
            lambda *_, found=verdict, **__: found,
        )
        note = purify(model, images, labels).notes[-1]
        assert note.startswith("the network looks clean and is returned as it was")
        assert said in note and ("tau" in note) == bool(said)


class Counting(nn.Module):
    """`Square`, noting how many images it gets at a time."""

    def __init__(self, planted: float) -> None:
        super().__init__()
        self.square, self.seen = Square(planted), set[int]()

    def forward(self, images: Tensor) -> Tensor:
        self.seen.add(len(images))
        return self.square(images)


def test_where_a_few_images_tell_that_nothing_is_near_the_others_are_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for steps in ("search.STEPS", "margins.STEPS"):
        monkeypatch.setattr(f"awm_defense.examination.{steps}", 5)
    network = Counting(planted=0.0)
    search = Search(network, *known(), torch.Generator())
    assert search.ease > 0
    network.seen.clear()
    assert not any(reach.nearly for reach in search.every_class())
    assert network.seen == {4 * 10}


@pytest.mark.parametrize("few", [4, 10])
def test_what_is_found_by_all_images_does_not_depend_on_the_first(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do later draws: `few` of 10 asks nothing first."""
    monkeypatch.setattr("awm_defense.examination.search.FIRST", few)
    images, labels = torch.zeros(10, 3, 32, 32), torch.arange(10)
    generator = torch.Generator().manual_seed(0)
    search = Search(Spots((4, 4)), images, labels, generator)
    monkeypatch.setattr(search, "ease", 1.0)
    reaches = search.every_class()
    assert [reach.nearly for reach in reaches[:2]] == [False, True]
    expected = torch.Generator().manual_seed(0)
    (warp,) = (family for family in families(images) if family.unit == "pixels")
    warp.start(1, expected)
    assert torch.equal(generator.get_state(), expected.get_state())
    assert [reach.bound for reach in reaches[1:]] == [40, 10, 5]
    assert all(reach.flips[TARGET] == 1 for reach in reaches[1:])


@pytest.mark.parametrize(
    ("labels", "weak"),
    [
        (range(10), False),
        (range(9), True),
        ([0, 1, 2], True),
        ([0, 1, 2, 3, 4] * 2, True),
        ([0, 1, 2, 3, 4, 5, 5, 5, 5, 5], False),
        ([0] * 500, True),
    ],
)
def test_clean_by_few_images_is_said_to_be_weak(
    labels: Sequence[int], weak: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, bad = (judge([reach([top, *[5.0] * 9])]) for top in (5.2, 50.0))
    given = torch.tensor(labels)
    assert clean.backdoored is False and bool(weakness(clean, given)) == weak
    assert bad.backdoored and weakness(bad, given) == []
    module = importlib.import_module("awm_defense.examination.examine")
    monkeypatch.setattr(module, "examine_images", lambda *_, **__: clean)
    purification = importlib.import_module("awm_defense.purification")
    monkeypatch.setattr(purification, "examine_images", lambda *_, **__: clean)
    images = torch.rand(len(given), 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 10, 8), nn.Flatten())
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        examine(model, images, given)
    said = [str(one.message) for one in found]
    for notes in (said, purify(model, images, given).notes):
        assert any("clean says little" in note for note in notes) == weak


@pytest.mark.slow
def test_kinds_and_bounds_that_are_tried(
    networks: dict[str, nn.Module],
    defender: tuple[Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = {}
    for name, model in networks.items():
        reaches = Search(
            copy.deepcopy(model).requires_grad_(False), *defender, torch.Generator()
        ).every_class()
        tried[name] = [(reach.bound, reach.unit) for reach in reaches]
    warp, dense = (0.5, "pixels"), (1, "L2")
    assert tried == {
        "benign": [warp, (40, "L1"), dense],
        "backdoored": [warp, (40, "L1"), (10, "L1"), (5, "L1")],
    }
    # Where it takes more than standing out, kinds are tried until there is more.
    monkeypatch.setattr("awm_defense.examination.search.FIRST", 10)
    monkeypatch.setattr("awm_defense.examination.verdict.threshold", lambda classes: 1e9)
    reaches = Search(
        copy.deepcopy(model).requires_grad_(False), *defender, torch.Generator()
    ).every_class()
    assert [(reach.bound, reach.unit) for reach in reaches] == [*tried["backdoored"], dense]


def test_images_of_as_many_classes_as_there_are_come_first() -> None:
    labels = torch.tensor([4, 4, 4, 0, 0, 7] + [4] * 20)
    assert labels[pick_images(labels)].tolist()[:5] == [4, 0, 7, 4, 0]
    assert len(pick_images(labels)) == 10


def test_errors_name_the_argument(networks: dict[str, nn.Module]) -> None:
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    with pytest.raises(ValueError, match=r"mean, std: expected both"):
        examine(networks["benign"], images, labels, mean=0.5)
    with pytest.raises(ValueError, match=r"images: expected pixel values in \[0, 1\]"):
        examine(networks["benign"], images + 1, labels)
    with pytest.raises(ValueError, match=r"labels: expected classes from 0 to 9, got 96 to 99"):
        examine(networks["benign"], images, labels + 96)


@pytest.mark.slow
def test_command(
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for steps in ("search.CONDENSING", "search.STEPS", "margins.STEPS", "margins.ASCENT"):
        monkeypatch.setattr(f"awm_defense.examination.{steps}", 2)
    path = tmp_path_factory.mktemp("examine") / "model.safetensors"
    torch.manual_seed(0)
    save_model(path, build_model("small_vgg", 10))
    given = [str(path), "--arch", "small_vgg", "--num-classes", "10", "--dataset", "digits"]
    assert main(["examine", *given, "--device", "cpu", "--json"]) == 0
    (facts,) = json.loads(capsys.readouterr().out).values()
    assert set(facts) >= {"backdoored", "target", "norm", "unit", "score", "flips", "margins"}
    assert len(facts["margins"]) == 10


@pytest.mark.parametrize("ended", [ValueError("model: odd"), KeyboardInterrupt()])
def test_verdicts_before_a_failure_are_printed(
    ended: BaseException,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [str(tmp_path / f"{number}.safetensors") for number in range(3)]
    for name in names:
        save_model(Path(name), build_model("small_vgg", 10))
    verdict = judge([reach([9.0, 5.0, 4.0, 5.0, 4.5])])
    answers: Iterator[Verdict | BaseException] = iter([verdict, ended])

    def answer(*args: object, **options: object) -> Verdict:
        found = next(answers)
        if isinstance(found, BaseException):
            raise found
        return found

    monkeypatch.setattr(command, "examine", answer)
    given = ["--arch", "small_vgg", "--num-classes", "10", "--dataset", "digits", "--json"]
    code = main(["examine", *names[:2], *given])
    found = json.loads(capsys.readouterr().out)
    assert "backdoored" in found[names[0]]
    if isinstance(ended, KeyboardInterrupt):
        assert code == 130 and set(found) == {names[0]}
    else:
        assert code == 1 and found[names[1]] == {"error": f"{names[1]}: model: odd"}


def test_without_a_scale_nothing_is_judged() -> None:
    """A network that does not know the images: any margin is a large multiple of next to none."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    images, labels = torch.rand(10, 3, 32, 32), torch.arange(10)
    assert float((network(images).argmax(1) == labels).double().mean()) < 0.5
    assert examine(network, images, labels).backdoored is None


@pytest.mark.parametrize("call", [examine, purify])
def test_what_is_not_finite_is_named(call: Callable[..., object]) -> None:
    """It would crash the search for warps, not raise."""
    images, labels = torch.rand(10, 3, 32, 32), torch.arange(10)

    def network() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(3600, 10)).eval()

    broken = network()
    with torch.no_grad():
        broken[2].bias[3] = torch.nan
    with pytest.raises(ValueError, match=r"model: expected finite values.* in 2\.bias"):
        call(broken, images, labels)
    with pytest.raises(ValueError, match="images: expected finite"):
        call(network(), torch.full_like(images, torch.nan), labels)
    with pytest.raises(ValueError, match=r"std: expected numbers from 1e-06 to 1e\+06"):
        call(network(), images, labels, mean=0.5, std=0.0)
    with pytest.raises(ValueError, match="mean: expected finite"):
        call(network(), images, labels, mean=torch.nan, std=0.5)

    class Endless(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).flatten(1) * 3e38 * 10

    with pytest.raises(ValueError, match="model: expected finite logits"):
        examine(Endless(3, 10, 32), images, labels)
