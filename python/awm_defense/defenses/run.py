"""Runs a rival defense as `purify` runs Adversarial Weight Masking, on the same images."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from torch import Tensor, nn

from awm_defense.allocator import keep_freed_memory
from awm_defense.batches import Batches
from awm_defense.checks import check_images
from awm_defense.compute import Compute, fastest
from awm_defense.defenses.problem import Baseline, Problem
from awm_defense.normalise import Normalise
from awm_defense.precision import Precision, asked_precision
from awm_defense.recipes import RECIPES
from awm_defense.result import PurifyResult, peak_memory_mb


def make_problem(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: Baseline,
    *,
    mean: float | list[float] | Tensor | None = None,
    std: float | list[float] | Tensor | None = None,
    device: str | torch.device | None = None,
    precision: str | Precision = "auto",
    seed: int = 0,
    progress: bool = False,
) -> tuple[Problem, Precision]:
    """What `purify` gives a rival to work with, and in which precision; arguments are those."""
    check_images(model, images, labels)
    home = next(model.parameters())
    place = torch.device(device) if device is not None else home.device
    images, labels = images.detach().to(place, home.dtype), labels.to(place)
    classes = len(labels.unique())
    # In the one-shot setting rivals get the fixed augmented copies that AWM's authors make.
    copies = RECIPES["official"].resolve(len(images), classes, images[0].numel())
    data = Batches(images, labels, copies, len(images) <= classes, seed)
    work = copy.deepcopy(model).to(place).eval().requires_grad_(False)
    normalise = Normalise(mean, std, images)
    compute, used = _compute(settings, precision, work, normalise(data.images[:64]), place)
    compute.prepare(work, place)
    generator = torch.Generator().manual_seed(seed)
    problem = Problem(work, data.images, data.labels, normalise, compute, generator, progress)
    return problem, used


@keep_freed_memory()
def run_baseline(
    model: nn.Module, images: Tensor, labels: Tensor, settings: Baseline, **options: Any
) -> PurifyResult:
    """Arguments are those of `make_problem`, result and errors those of `purify`."""
    started = time.perf_counter()
    problem, used = make_problem(model, images, labels, settings, **options)
    home, place = next(model.parameters()).device, problem.images.device
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
    with used.active():
        found = settings.erase(problem)
    work = problem.model
    Compute(channels_last=False).prepare(work, home)
    for ours, theirs in zip(work.parameters(), model.parameters(), strict=True):
        ours.requires_grad_(theirs.requires_grad)
    for module, original in zip(work.modules(), model.modules(), strict=True):
        module.training = original.training
    return PurifyResult(
        model=work,
        masks={name: mask.to(home) for name, mask in found.masks.items()},
        trigger=None if found.trigger is None else found.trigger.to(home),
        history=found.history,
        seconds=time.perf_counter() - started,
        peak_memory_mb=peak_memory_mb(place),
        recipe=settings,
        precision=used,
        notes=problem.notes,
    )


def _compute(
    settings: Baseline,
    precision: str | Precision,
    model: nn.Module,
    sample: Tensor,
    device: torch.device,
) -> tuple[Compute, Precision]:
    """How to compute; asked for, or measured."""
    if isinstance(precision, str):
        asked = asked_precision(precision, sample.dtype)
        if asked is None:
            chosen = fastest(model, sample, device) if settings.half else Compute()
            return chosen, Precision(torch.bfloat16 if chosen.bf16 else torch.float32)
        precision = asked
    if precision.dtype == torch.bfloat16 and not settings.half:
        raise ValueError(f"precision: {settings.name} needs float32, got bfloat16")
    return Compute(bf16=precision.dtype == torch.bfloat16), precision
