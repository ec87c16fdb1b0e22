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
from common import DEVICE
from memory import peak_mb
from plain_loop import check_equal, plain_purify
from torch import Tensor, nn

from awm_defense import Recipe, get_recipe, purify
from awm_defense.models import build_model

EPOCHS = os.environ.get("AWM_BENCH_EPOCHS", "1")

RUNS: dict[str, Callable[..., Any]] = {
    "plain": plain_purify,
    "float32": functools.partial(purify, precision="fp32", captured=False),
    "eager": functools.partial(purify, captured=False),
}
if DEVICE == "cuda":
    RUNS["captured"] = purify


def problem(arch: str, epochs: str) -> tuple[nn.Module, Tensor, Tensor, Recipe]:
    torch.manual_seed(0)
    model = build_model(arch, 10).eval().to(DEVICE)
    images, labels = torch.rand(10, 3, 32, 32, device=DEVICE), torch.arange(10, device=DEVICE)
    return model, images, labels, get_recipe("official").with_options({"epochs": epochs})


@pytest.mark.parametrize("arch", ["small_vgg", "resnet18"])
@pytest.mark.parametrize("kind", RUNS)
def bench_purify(benchmark: Any, kind: str, arch: str) -> None:
    model, images, labels, recipe = problem(arch, EPOCHS)
    check_equal(model, images, labels, recipe)
    benchmark.group = f"official one-shot, {arch}, {EPOCHS} of 20 epochs ({DEVICE})"
    benchmark.extra_info["peak_memory_mb"] = peak_mb(kind, arch)
    options = {"recipe": recipe, "seed": 0}
    benchmark.pedantic(RUNS[kind], (model, images, labels), options, rounds=1)
