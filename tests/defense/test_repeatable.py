"""The same seed, precision and threads give the same bits; some results for any threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from awm_defense import examine, get_settings, purify, synthesize
from awm_defense.attacks import make_attack
from awm_defense.registry import BASELINES
from awm_defense.training.loop import Plan, train
from tests.fingerprints import digest
from tests.soak.many import EXAMINED, OTHERS, network

FEW: dict[str, dict[str, str]] = {
    "anp": {"steps": "3"},
    "anp-swm": {"steps": "3"},
    "ibau": {"rounds": "1"},
    "finetune": {"epochs": "1"},
    "fine-pruning": {"epochs": "1"},
}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def images(n: int = 5, side: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 3, side, side, generator=generator), torch.arange(n) % 5


def purified(settings: Any, precision: str = "fp32") -> Any:
    result = purify(network(0), *images(), recipe=settings, precision=precision)
    return [result.masks, result.model.state_dict(), result.history, result.trigger]


def rival(name: str) -> Callable[[], Any]:
    return lambda: purified(get_settings(name).with_options(FEW.get(name, {})))


def examined() -> Any:
    verdict = examine(network(0), *images())
    return [verdict.facts(), verdict.trigger, verdict.margins]


def trained() -> Any:
    return train(network(0), *images(64), Plan(epochs=2, batch_size=16)).state_dict()


def poisoned() -> Any:
    generator = torch.Generator().manual_seed(0)
    shown = images(200, side=32)
    attacks = [
        make_attack("badnets", 3),
        make_attack("blended", 3, trigger_image=shown[0][0]),
        make_attack("wanet", 3, trigger_field=torch.rand(32, 32, 2, generator=generator) - 0.5),
    ]
    return [attack.poison(*shown, 0.2, generator) for attack in attacks]


def imagined() -> Any:
    return synthesize(network(0), (3, 8, 8), classes=5, per_class=1)


RESULTS: dict[str, Callable[[], Any]] = {
    **{recipe.name: partial(purified, recipe) for recipe in (EXAMINED, *OTHERS)},
    **{name: rival(name) for name in BASELINES},
    "bf16": partial(purified, OTHERS[0], "bf16"),
    "examine": examined,
    "train": trained,
    "poison": poisoned,
    "synthesize": imagined,
}
# What no convolution of PyTorch takes part in.
FOR_ANY_THREADS = ("clp", "poison")


def bits(name: str, threads: int) -> str:
    torch.set_num_threads(threads)
    return digest(RESULTS[name]())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", RESULTS)
def test_the_same_again(name: str, threads: int) -> None:
    assert bits(name, threads) == bits(name, threads)


@pytest.mark.parametrize("name", FOR_ANY_THREADS)
def test_the_same_on_two_threads(name: str) -> None:
    assert bits(name, 1) == bits(name, 2)
