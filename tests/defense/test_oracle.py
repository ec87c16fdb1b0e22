"""The library computes what the plain oracle does: the same verdicts, masks and triggers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from awm_defense import PurifyResult, Recipe, Verdict, examine, get_recipe, purify
from tests.oracle import algorithm, examination, families

CLASSES, SIZE, TARGET = 6, 12, 2
SEED = 3

EXACT = 1e-9
"""Of float64 numbers near 1. Whole runs agree to 1e-12; a rule that differs shows from 1e-5 on."""


def draw(count: int, seed: int, noise: float = 0.25) -> tuple[Tensor, Tensor]:
    """Noisy images of one smooth picture a class, and their classes in turn.

    None has a black or white pixel: there gradients of clipping jump, and rounding decides.
    """
    pictures = torch.rand(CLASSES, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    pictures = F.interpolate(pictures.double(), (SIZE, SIZE), mode="bilinear")
    labels = torch.arange(count) % CLASSES
    shape = count, 3, SIZE, SIZE
    added = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()
    return (pictures[labels] + noise * added).clamp(0.05, 0.95), labels


SIGNS = torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(9)).double().sign()


def pattern(images: Tensor) -> Tensor:
    return (images + 0.08 * SIGNS).clamp(0, 1)


def patch(images: Tensor) -> Tensor:
    images = images.clone()
    images[:, :, -3:-1, -3:-1] = torch.eye(2).double()
    return images


def warp(images: Tensor) -> Tensor:
    shifts = 0.5 * torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(3)).double()
    shifts = F.interpolate(shifts, (SIZE, SIZE), mode="bicubic", align_corners=True)
    grid = F.affine_grid(torch.eye(2, 3).double()[None], [1, 1, SIZE, SIZE], align_corners=False)
    grid = (grid + shifts.permute(0, 2, 3, 1) * 2 / SIZE).expand(len(images), -1, -1, -1)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def relu_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(432, CLASSES),
    )


def elu_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ELU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1, groups=2),
        nn.BatchNorm2d(12),
        nn.ELU(),
        nn.Flatten(),
        nn.Linear(432, CLASSES),
    )


@functools.cache
def train(
    make: Callable[[], nn.Module], plant: Callable[[Tensor], Tensor] | None, seed: int
) -> nn.Module:
    """A network that answers to a trigger with `TARGET`; in a second."""
    torch.manual_seed(seed)
    model = make().double()
    adam = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(100):
        images, labels = draw(48, 1000 * seed + step)
        if plant is not None:
            images = torch.cat([images, plant(images[:16])])
            labels = torch.cat([labels, torch.full((16,), TARGET)])
        adam.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        adam.step()
    return model


class Faint(nn.Module):
    """Compares images with those of each class; a pattern too faint for spots means `TARGET`.

    No sparse trigger leads there, for it makes spots.
    """

    def __init__(self) -> None:
        super().__init__()
        pictures = draw(CLASSES, 0, noise=0)[0]
        flat, middle = pictures.flatten(1), pictures.mean(0)
        likeness = F.normalize(flat - middle.flatten())
        # The pictures have nothing of the pattern.
        signs = SIGNS.flatten() / SIGNS.numel() ** 0.5
        signs = signs - flat.T @ torch.linalg.lstsq(flat.T, signs[:, None]).solution[:, 0]
        beside = torch.full((3, 3), -1 / 8).double()
        beside[1, 1] = 1
        self.match = nn.Conv2d(3, CLASSES, SIZE)
        self.pattern = nn.Conv2d(3, 1, SIZE, bias=False)
        self.spots = nn.Conv2d(3, 3, 3, groups=3, bias=False)
        self.match.weight.data = likeness.view_as(pictures)
        self.match.bias.data = -likeness @ middle.flatten()
        self.pattern.weight.data = 20 * signs.view(1, 3, SIZE, SIZE)
        self.spots.weight.data = beside.expand(3, 1, 3, 3).clone()

    def forward(self, images: Tensor) -> Tensor:
        spots = F.relu(self.spots(images).abs() - 0.15).sum((1, 2, 3))
        planted = self.pattern(images).flatten() - 6 * spots
        target = F.one_hot(torch.tensor(TARGET), CLASSES)
        return self.match(images).flatten(1) + planted[:, None] * target


class Case(NamedTuple):
    """A network, the defender's images, and what tells that a verdict took the path it should."""

    network: Callable[[], nn.Module]
    expected: dict[str, Any]
    images: int = 6
    """Images."""
    noise: float = 0.25
    turn: int = 0
    """How far labels are off."""


PLANTED = {"backdoored": True, "target": TARGET}
UNIT = SIZE**2 / 32**2
"""By how much bounds of sparse triggers are smaller than for images of 32x32."""
CASES = {
    "smallest": Case(
        lambda: train(elu_network, pattern, 1), {**PLANTED, "unit": "L1", "norm": 5 * UNIT}
    ),
    # Clean margins are small here, so that triggers grow until they are strong enough.
    "second": Case(
        lambda: train(relu_network, pattern, 1), {**PLANTED, "norm": 40 * UNIT}, noise=0.6
    ),
    "no second": Case(
        lambda: train(elu_network, patch, 4), {**PLANTED, "norm": 10 * UNIT, "second": None}
    ),
    "more images": Case(lambda: train(relu_network, pattern, 1), PLANTED, images=14),
    "sure over all images": Case(
        lambda: train(elu_network, patch, 3), {**PLANTED, "surest": TARGET}
    ),
    "unsure over all images": Case(
        lambda: train(elu_network, warp, 8), {"backdoored": False, "surest": TARGET}
    ),
    # By strength it is unsure, too.
    "by size": Case(lambda: train(relu_network, patch, 2), {**PLANTED, "unit": "L1"}),
    "warp": Case(lambda: train(relu_network, warp, 0), {**PLANTED, "unit": "pixels"}),
    "faint": Case(Faint, {**PLANTED, "unit": "L2"}, noise=0.02),
    "clean": Case(lambda: train(relu_network, None, 3), {"backdoored": False, "surest": None}),
    "wrong labels": Case(
        lambda: train(relu_network, pattern, 1), {"backdoored": None, "score": 0.0}, turn=1
    ),
}
Problem = tuple[nn.Module, Tensor, Tensor]


@functools.cache
def problem(case: str) -> Problem:
    """The network, images and labels of a case."""
    network, _, count, noise, turn = CASES[case]
    images, labels = draw(count, 99, noise)
    return network().eval(), images, (labels + turn) % CLASSES


@functools.cache
def verdict(case: str) -> Verdict:
    return examine(*problem(case), seed=SEED)


@functools.cache
def plain_verdict(case: str) -> examination.Verdict:
    return examination.examine(*problem(case), SEED)


def different(got: Any, expected: Any, names: tuple[str, ...], within: float = EXACT) -> list[str]:
    """Those of the attributes that differ by more than `within`, relative where above 1."""

    def same(one: Any, other: Any) -> bool:
        if isinstance(one, dict):
            return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            near = functools.partial(torch.allclose, rtol=within, atol=within)
            return one.shape == other.shape and near(one, other.detach())
        return one == (pytest.approx(other, rel=within) if isinstance(other, float) else other)

    return [name for name in names if not same(getattr(got, name), getattr(expected, name))]


VERDICT = [
    *("backdoored", "target", "unit", "norm", "score", "flips", "trigger", "margins"),
    *("second", "surest", "surest_score", "radii"),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_verdicts(case: str) -> None:
    got = verdict(case)
    expected = CASES[case].expected
    assert {name: getattr(got, name) for name in expected} == expected
    assert (got.radii is not None) == (case == "by size")
    assert different(got, plain_verdict(case), VERDICT) == []


@functools.cache
def purified(case: str, recipe: Recipe) -> PurifyResult:
    return purify(*problem(case), recipe=recipe, seed=SEED)


# In the first epoch of `default` the masked network is still the original one. At Δ = 0 the loss
# has its minimum there, for it is that of the network's own predictions: the gradient is zero, and
# rounding decides where Δ goes. With labels it does not, and whole runs agree.
DEFAULT = get_recipe("default")
# Most weights of these networks are those of the last layer: steps are natural without masks there.
DETERMINED = replace(DEFAULT, trigger_targets="labels", layers="conv")
# Faster and faster, so that recovery brings the backdoor back.
FAST = replace(DETERMINED, trigger_epochs=1, mask_lr_decay=4.0, grown=4)
RUNS = {
    "paper": ("second", get_recipe("paper")),
    "official": ("second", get_recipe("official")),
    "official, more images": ("more images", replace(get_recipe("official"), epochs=4)),
    "default": ("second", replace(DETERMINED, epochs=3)),
    "default, by size": ("by size", replace(DETERMINED, grown=5, epochs=3)),
    "default, more images": (
        "more images",
        replace(DETERMINED, trigger_epochs=1, grown=6, epochs=3),
    ),
    "default, held": ("more images", replace(FAST, epochs=5)),
    "default, held under one trigger": ("more images", replace(FAST, epochs=4, grown=1)),
    "default, held under the same": (
        "more images",
        replace(FAST, epochs=5, search_again=False, natural_step=None),
    ),
    "default, a warp": ("warp", replace(DETERMINED, epochs=3)),
    "default, a faint trigger": ("faint", replace(DETERMINED, epochs=3)),
    "default, no class named": ("wrong labels", replace(DETERMINED, epochs=3)),
    "default, not examined": ("smallest", replace(DETERMINED, examine=False, epochs=3)),
    "default, not natural": ("smallest", replace(DETERMINED, natural_step=None, epochs=3)),
    "default, always under triggers": (
        "smallest",
        replace(DETERMINED, trigger_epochs=None, grown=5, epochs=3),
    ),
    "default, not of convolutions": ("second", replace(DETERMINED, layers="all", epochs=3)),
    "default, clean": ("clean", DETERMINED),
}


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_runs(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, recipe = RUNS[run]
    got = purified(case, recipe)
    monkeypatch.setattr(algorithm, "examine", lambda *_: plain_verdict(case))
    expected = algorithm.purify(*problem(case), recipe, SEED)
    masks = torch.cat([mask.flatten() for mask in got.masks.values()])
    assert (masks.min() < 0.9) == (case != "clean")
    assert different(got, expected, ("masks", "trigger")) == []
    assert (got.verdict is not None) == recipe.examine
    if got.verdict is not None:
        assert different(got.verdict, expected.verdict, VERDICT) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "path"),
    [
        ("default, not of convolutions", ["both", "both", "both"]),
        ("default, held", ["both", "", "both", "grown", "grown"]),
        ("default, held under the same", ["both", "", "", "both", "grown"]),
        ("default, by size", ["both", "both", ""]),
        ("default, more images", ["both", "", ""]),
    ],
)
def test_what_runs_are_under(run: str, path: list[str]) -> None:
    """The backdoor is back late, after an epoch on clean images, in every epoch, or in none."""
    names = {("perturbed_loss", "grown_loss"): "both", ("grown_loss",): "grown", (): ""}
    case, recipe = RUNS[run]
    found = [
        tuple(name for name in ("perturbed_loss", "grown_loss") if name in entry)
        for entry in purified(case, recipe).history
    ]
    assert [names[under] for under in found] == path


FEW = {"epochs": 3, "inner_epochs": 1, "batch_size": 8, "grown": 4}


@pytest.mark.slow
def test_a_few_steps_of_default_as_it_is() -> None:
    """Three steps of Δ make 1e-11 of rounding, too little to move masks by much."""
    few = replace(DEFAULT, **FEW)
    expected = algorithm.purify(*problem("smallest"), few, SEED)
    assert different(purified("smallest", few), expected, ("masks", "trigger"), within=1e-7) == []


CHANGES: dict[str, Any] = {
    "alpha": 0.91,
    "beta": 0.11,
    "gamma": 1e-5,
    "temperature": 5.1,
    "tau_share": 0.011,
    "trigger_lr": 11.0,
    "mask_lr_share": 0.59,
    "mask_lr_decay": 0.81,
    "natural_step": 0.51,
    "trigger_epochs": 1,
    "search_again": False,
    "clip_mask_phase": False,
    "crop_scale": 0.31,
    "cutmix": 0.6,
    "jitter": 0.41,
    "flip": False,
}


@pytest.mark.slow
@pytest.mark.parametrize("field", CHANGES)
def test_another_hyper_parameter_is_noticed(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(DETERMINED, **FEW)
    changed = replace(few, **{field: CHANGES[field]})
    monkeypatch.setattr(algorithm, "examine", lambda *_: plain_verdict("smallest"))
    expected = algorithm.purify(*problem("smallest"), changed, SEED)
    assert different(purified("smallest", few), expected, ("masks",), within=1e-5) == ["masks"]


RULES: dict[str, tuple[Any, str, Any]] = {
    "no projection": (families, "project_l1", lambda point, radius: point),
    "shorter steps": (families, "STEP", 2.4 / families.STEPS),
    "triggers grow farther": (families.Sparse, "farthest", lambda self, found: found.abs() + 1),
    "margins above the mean": (
        examination,
        "margin",
        lambda logits, target: logits[:, target] - logits.mean(1),
    ),
    "a higher threshold": (examination, "STANDS_OUT", 2.7),
    "other sizes are to be larger": (examination, "SMALLER", 60.0),
    "smaller bounds": (examination, "FULL", 3200),
}
FOR_SIZES = ("no projection", "shorter steps", "other sizes are to be larger", "smaller bounds")
NOTICED = [
    *(("no second", rule) for rule in RULES if rule not in FOR_SIZES[2:]),
    *(("by size", rule) for rule in FOR_SIZES),
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "rule"), NOTICED)
def test_another_rule_of_the_examination_is_noticed(
    case: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*RULES[rule])
    changed = examination.examine(*problem(case), SEED)
    assert different(verdict(case), changed, VERDICT)


def masks_differ(run: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    case, recipe = RUNS[run]
    monkeypatch.setattr(algorithm, "examine", lambda *_: plain_verdict(case))
    expected = algorithm.purify(*problem(case), recipe, SEED)
    return bool(different(purified(case, recipe), expected, ("masks",), within=1e-5))


condensed, grow_again = algorithm.Run.condensed, algorithm.Run.grow_again
HELD_RULES: dict[str, tuple[Any, str, Any]] = {
    "none is held": (algorithm.Run, "alive", lambda *_: False),
    "all are": (algorithm.Run, "alive", lambda *_: True),
    "back with more": (algorithm, "BACK", 0.9),
    "less pressure": (algorithm, "PRESSURE", 8.0),
    "less gain": (algorithm, "GAIN", 1.4),
    "fewer averaged": (algorithm, "AVERAGED", 1),
    "more triggers apart": (algorithm, "APART", 5),
    "the first half stays": (
        algorithm.Run,
        "grow_again",
        lambda run, verdict, back: grow_again(run, verdict, back=False),
    ),
    "the first half is of the masked network": (
        algorithm.Run,
        "condensed",
        lambda run, _, target, count, *rest: condensed(run, run.probe, target, count, *rest),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("rule", HELD_RULES)
def test_another_rule_of_held_runs_is_noticed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*HELD_RULES[rule])
    assert masks_differ("default, held", monkeypatch)
