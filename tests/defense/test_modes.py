"""Whatever modes of PyTorch the caller is in, the results are the same."""

from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from awm_defense import synthesis
from awm_defense.awm.recipe import get_recipe
from awm_defense.examination.examine import examine
from awm_defense.purification import purify, purify_many
from awm_defense.registry import get_settings
from awm_defense.settings import Settings
from awm_defense.synthesis import synthesize

QUICK = get_recipe("official").with_options(
    {"epochs": "1", "inner_epochs": "1", "examine": "false"}
)
SHORT = get_settings("finetune").with_options({"epochs": "1"})
MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "meta": lambda: torch.device("meta"),
}
IMAGES = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 4


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(24, 4),
    ).eval()  # fmt: skip


def purified(model: nn.Module, recipe: str | Settings, **options: Any) -> dict[str, Tensor]:
    found = purify(model, IMAGES, LABELS.tolist(), recipe=recipe, precision="fp32", **options)
    return found.model.state_dict()


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> AbstractContextManager[Any]:
    made: AbstractContextManager[Any] = MODES[request.param]()
    return made


@pytest.mark.parametrize("recipe", [QUICK, SHORT, "clp"])
def test_purify(mode: AbstractContextManager[Any], recipe: str | Settings) -> None:
    model = network()
    expected = purified(model, recipe)
    with mode:
        found = purified(model, recipe)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_examine_and_synthesize(
    mode: AbstractContextManager[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthesis, "STEPS", 3)
    model = network()
    verdict, made = examine(model, IMAGES, LABELS), synthesize(model, (3, 8, 8), classes=4)
    with mode:
        assert examine(model, IMAGES, LABELS).facts() == verdict.facts()
        assert torch.equal(synthesize(model, (3, 8, 8), classes=4)[0], made[0])


def test_what_was_made_under_inference_mode() -> None:
    with torch.inference_mode():
        model, images, labels = network(), IMAGES.clone(), LABELS.clone()
        stat = torch.full((3,), 0.5, dtype=torch.float64)
    expected = purified(network(), SHORT, mean=0.5, std=0.5)
    found = purify(
        model, images, labels, recipe=SHORT, mean=stat, std=stat, precision="fp32"
    ).model.state_dict()
    for name, value in expected.items():
        assert torch.equal(found[name], value) and not found[name].is_inference(), name
    purify(model, images, labels, recipe=QUICK, mean=stat, std=stat)
    examine(model, images, labels, mean=stat, std=stat)


def test_a_mean_that_requires_a_gradient() -> None:
    stat = torch.full((3,), 0.5, requires_grad=True)
    expected, found = (purified(network(), QUICK, mean=half, std=half) for half in (0.5, stat))
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_between_results_the_modes_are_the_callers() -> None:
    results = purify_many([network(), network()], IMAGES, LABELS, recipe="clp")
    with torch.no_grad():
        for _ in results:
            assert not torch.is_grad_enabled()
    with torch.inference_mode():
        next(purify_many([network()], IMAGES, LABELS, recipe="clp"))
        assert torch.is_inference_mode_enabled()
