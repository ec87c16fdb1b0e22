"""One-shot purification, `official` recipe: the engine, and the recipe written plainly.

`AWM_BENCH_EPOCHS` (default 1) of the recipe's 20 epochs are run; every epoch costs the same, but
the first has to measure the dtypes, and on CUDA to capture the graphs.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from awm_defense import PurifyResult
from bench.arithmetic import arithmetic
from bench.common import EAGER, KERNELS
from bench.contestants import RUNS, problem
from bench.memory import peak_mb
from bench.plain_loop import HALF, SINGLE, check_equal

EPOCHS = os.environ.get("AWM_BENCH_EPOCHS", "1")


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
