"""Whole purifications: the captured engine, the same eager, and the recipe written plainly."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._autograd import DeviceType

from awm_defense import Recipe, get_recipe, purify, purify_many
from awm_defense.awm.engine import make_engine
from awm_defense.models import build_model
from awm_defense.pixel_model import PixelModel
from bench.gpu.setting import DEVICE, GPU, Row, Rows, at_least, at_most, size
from bench.plain_loop import HALF, SINGLE, check_equal, plain_purify

MB = 2**20


def problem(arch: str, images: int, pixels: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = build_model(arch, 10).eval().to(DEVICE)
    return (
        model,
        torch.rand(images, 3, pixels, pixels, device=DEVICE),
        torch.arange(images, device=DEVICE) % 10,
    )


def cost(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds and MB (device memory beyond what was there; 0 on a CPU) of one call."""
    if not GPU:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start, 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start, (torch.cuda.max_memory_allocated() - before) / MB


def conv_share(model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe) -> float:
    """Share of the device time of a trigger and a mask step that convolution kernels take."""
    pixel_model = PixelModel(model, images, device=DEVICE).copy(images)
    given = pixel_model.take(images, labels)
    engine = make_engine(pixel_model, *given, recipe, captured=False)
    engine.buffers.start_phase()
    engine.network.flat.require_grad(True)
    for _ in range(2):
        engine.trigger_phase.step()
        engine.under_delta.step()
        engine.buffers.position.zero_()
    with torch.profiler.profile() as profile:
        engine.trigger_phase.step()
        engine.under_delta.step()
    conv = total = 0.0
    for event in profile.key_averages():
        spent = event.self_device_time_total if GPU else event.self_cpu_time_total
        total += spent
        conv += spent if "conv" in event.key.lower() and not _is_kernel(event) else 0.0
    return conv / total


def _is_kernel(event: Any) -> bool:
    """A kernel by itself: its time is counted with the operator that launched it."""
    return bool(event.device_type == DeviceType.CUDA)


def rows() -> Rows:
    recipe = get_recipe("official").with_options(
        {} if GPU else {"epochs": "1", "inner_epochs": "1"}
    )
    arch = "resnet18" if GPU else "small_vgg"
    arguments = problem(arch, 10, 32)
    check_equal(*arguments, recipe, partial(purify, precision="fp32"), SINGLE)
    check_equal(*arguments, recipe, purify, HALF)
    runs: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain_purify(*arguments, recipe=recipe, seed=0),
        "eager": lambda: purify(*arguments, recipe=recipe, seed=0, captured=False),
        "captured": lambda: purify(*arguments, recipe=recipe, seed=0),
    }
    runs["captured"]()
    spent = {name: cost(run) for name, run in runs.items()}
    seconds = {name: value[0] for name, value in spent.items()}
    memory = {name: value[1] for name, value in spent.items()}
    name = f"purify {arch}, one-shot, official"
    yield at_most(f"{name}, captured", seconds["captured"], 1.0, "s", seconds["plain"])
    yield Row(f"{name}, the same engine eager", seconds["eager"], "s", seconds["plain"])
    ratio = seconds["plain"] / seconds["captured"]
    yield at_least(f"{name}, plain loop / captured", ratio, 10, "x")
    if GPU:
        share = memory["captured"] / memory["plain"]
        note = f"{memory['captured']:.0f} MB"
        yield at_most(f"{name}, memory, captured / plain", share, 0.7, "x", memory["plain"], note)
    yield at_least(f"{name}, share of convolutions", conv_share(*arguments, recipe), 0.5, "")

    count = size(50, 2)
    models = [build_model("small_vgg", 10).eval().to(DEVICE) for _ in range(count)]
    images, labels = problem("small_vgg", 10, 32)[1:]
    many, _ = cost(lambda: list(purify_many(models, images, labels, recipe=recipe, seed=0)))
    yield at_most(f"purify_many, {count} small VGGs, each", many / count, 0.25, "s")

    pixels, arch = size(224, 32), "resnet50" if GPU else "resnet18"
    options = {
        "epochs": str(size(4, 1)),
        "inner_epochs": str(size(5, 1)),
        "batch_size": str(size(32, 8)),
    }
    # 160 images: 4 epochs of 25 + 25 steps.
    arguments = problem(arch, size(160, 16), pixels)
    recipe = recipe.with_options({**options, "tau": "1000", "alpha": "0.9"})
    plain, _ = cost(lambda: plain_purify(*arguments, recipe=recipe, seed=0))
    captured, _ = cost(lambda: purify(*arguments, recipe=recipe, seed=0))
    name = f"purify {arch} at {pixels}, {size(100, 2)} + {size(100, 2)} steps"
    yield at_least(f"{name}, plain loop / captured", plain / captured, 3, "x", plain)
