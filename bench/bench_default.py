"""How long `default` takes until a network is as good as `official` leaves it in the end.

Of each network in the folder `AWM_BENCH_NETWORKS` (as train_all.sh and adopt.py write them), with
one clean image a class of the data in `AWM_DATA_DIR`. As good: ACC no lower and ASR no higher than
the plain loop's after its last epoch, on the test images. `default` is given one epoch more until
it is, then that many are timed.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from awm_defense import PurifyResult, get_recipe, purify
from bench.arithmetic import examination_arithmetic
from bench.common import EAGER, KERNELS
from bench.networks import find_networks, trial
from bench.plain_loop import plain_purify

FOLDER = os.environ.get("AWM_BENCH_NETWORKS")
NETWORKS = find_networks(Path(FOLDER)) if FOLDER else []
DEFAULTS: dict[str, dict[str, str]] = {
    KERNELS: {},
    "kernels, without the examination": {"examine": "false"},
}
OFFICIAL = "kernels, `official`"
# What the plain loop ended with, by network.
ENDS: dict[Path, dict[str, float]] = {}


def plain(folder: Path) -> nn.Module:
    """What the plain loop makes of a network."""
    of = trial(folder)
    masks, _ = plain_purify(of.model, *of.defender(), recipe=get_recipe("official"), seed=0)
    purified = copy.deepcopy(of.model)
    with torch.no_grad():
        for name, mask in masks.items():
            purified.get_parameter(f"{name}.weight").mul_(mask)
    return purified


def default(folder: Path, epochs: int, options: dict[str, str]) -> PurifyResult:
    of = trial(folder)
    recipe = get_recipe("default").for_images(flip=of.data.flip)
    recipe = recipe.with_options({"epochs": str(epochs), **options})
    return purify(of.model, *of.defender(), recipe=recipe, seed=0)


def epochs_until_as_good(folder: Path, options: dict[str, str]) -> int:
    for epochs in range(1, get_recipe("default").epochs + 1):
        found = trial(folder).measure(default(folder, epochs, options).model)
        if found["acc"] >= ENDS[folder]["acc"] and found["asr"] <= ENDS[folder]["asr"]:
            return epochs
    pytest.skip("never as good: not timed")


@pytest.mark.parametrize("contestant", [EAGER, *DEFAULTS, OFFICIAL])
@pytest.mark.parametrize("folder", NETWORKS, ids=[folder.name for folder in NETWORKS])
def bench_until_as_good(benchmark: Any, folder: Path, contestant: str) -> None:
    benchmark.group = f"until as good as `official` ends, {folder.name}"
    call: Callable[[], Any] = functools.partial(plain, folder)
    if contestant == OFFICIAL:
        of = trial(folder)
        call = functools.partial(
            purify, of.model, *of.defender(), recipe=get_recipe("official"), seed=0
        )
    elif contestant != EAGER:
        if folder not in ENDS:
            pytest.skip("needs the plain loop's result")
        epochs = epochs_until_as_good(folder, DEFAULTS[contestant])
        benchmark.extra_info["epochs"] = epochs
        call = functools.partial(default, folder, epochs, DEFAULTS[contestant])
        if contestant == KERNELS:
            # Nearly all that there are.
            of = trial(folder)
            benchmark.extra_info["flops"] = examination_arithmetic(of.model, *of.defender())
    result = benchmark.pedantic(call, rounds=1)
    model = result.model if isinstance(result, PurifyResult) else result
    found = trial(folder).measure(model)
    if contestant == EAGER:
        ENDS[folder] = found
    benchmark.extra_info.update(contestant=contestant, metrics=found)
