"""One-shot purification, `official` recipe: the engine, and the recipe written plainly.

`AWM_BENCH_EPOCHS` (default 1) of the recipe's 20 epochs are run; every epoch costs the same, but
the first has to measure the dtypes, and on CUDA to capture the graphs.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from common import COMPILED, DEVICE, EAGER, KERNELS
from memory import peak_mb
from plain_loop import HALF, SINGLE, check_equal, plain_purify
from scaling import multiply_adds
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from awm_defense import PurifyResult, Recipe, examine, get_recipe, purify
from awm_defense.batches import Batches
from awm_defense.models import build_model

EPOCHS = os.environ.get("AWM_BENCH_EPOCHS", "1")
# Multiply-adds of a pair of steps, in units of those that one batch takes forward: the trigger step
# has a forward and an input gradient, the mask step these and the weight gradient of twice as many
# images. The images' own labels are found once an epoch.
PASSES = {"forward": 3, "input_grad": 3, "weight_grad": 2}

RUNS: dict[str, Callable[..., Any]] = {
    EAGER: plain_purify,
    COMPILED: functools.partial(plain_purify, compiled=True),
    "kernels, float32": functools.partial(purify, precision="fp32"),
    KERNELS: purify,
}


def problem(arch: str, epochs: str) -> tuple[nn.Module, Tensor, Tensor, Recipe]:
    torch.manual_seed(0)
    model = build_model(arch, 10).eval().to(DEVICE)
    images, labels = torch.rand(10, 3, 32, 32, device=DEVICE), torch.arange(10, device=DEVICE)
    return model, images, labels, get_recipe("official").with_options({"epochs": epochs})


@pytest.mark.parametrize("arch", ["small_vgg", "resnet18"])
@pytest.mark.parametrize("contestant", RUNS)
def bench_purify(benchmark: Any, contestant: str, arch: str) -> None:
    model, images, labels, recipe = problem(arch, EPOCHS)
    if contestant != EAGER:
        tolerance = HALF if contestant == KERNELS else SINGLE
        check_equal(model, images, labels, recipe, RUNS[contestant], tolerance)
    benchmark.group = f"one-shot `official`, {arch}, {EPOCHS} of 20 epochs"
    options = {"recipe": recipe, "seed": 0}
    found = benchmark.pedantic(RUNS[contestant], (model, images, labels), options, rounds=1)
    benchmark.extra_info["contestant"] = contestant
    benchmark.extra_info["peak_memory_mb"] = peak_mb(contestant, arch)
    if isinstance(found, PurifyResult):
        benchmark.extra_info["flops"] = arithmetic(model, images, labels, found)


def examination_arithmetic(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Floating-point operations of an examination, by dtype."""
    with FlopCounterMode(display=False) as counter:
        examine(model, images, labels)
    return {"float32": float(counter.get_total_flops())}


def arithmetic(
    model: nn.Module, images: Tensor, labels: Tensor, result: PurifyResult
) -> dict[str, float]:
    """Floating-point operations of a purification, by the dtype they ran in.

    An image that a batch has twice counts once, as on a CPU the network sees it once.
    """
    batches = Batches(images, labels, result.recipe, True, 0).draw().images
    seen = sum(len(batch.unique()) if DEVICE == "cpu" else len(batch) for batch in batches)
    work = 2.0 * seen * result.recipe.epochs
    found: dict[str, float] = {}
    for name, count in multiply_adds(model, images[:1]).items():
        passes = result.precision.passes.get(name)
        for kind, times in PASSES.items():
            dtype = getattr(passes, kind) if passes else result.precision.dtype
            key = str(dtype).removeprefix("torch.")
            found[key] = found.get(key, 0.0) + work * times * count
    return found
