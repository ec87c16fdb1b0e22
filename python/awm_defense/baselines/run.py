"""Runs a rival defense as `purify` runs Adversarial Weight Masking, on the same images."""

import time
from typing import Any

import torch
from torch import Tensor

from awm_defense.baselines.baseline import Baseline, Task
from awm_defense.data.augment import with_copies
from awm_defense.networks.back import with_state
from awm_defense.pixel_model import PixelModel, check_labels, check_logits
from awm_defense.result import PurifyResult, peak_memory_mb
from awm_defense.working.compute import Compute, fastest
from awm_defense.working.memory import keep_freed_memory
from awm_defense.working.precision import Precision, asked_precision

# Images that arithmetic is chosen by, and the network tried on.
SAMPLE = 64


def make_task(
    work: PixelModel,
    images: Tensor,
    labels: Tensor,
    settings: Baseline,
    *,
    precision: str | Precision = "auto",
    seed: int = 0,
    progress: bool = False,
) -> tuple[Task, Precision]:
    """What `purify` gives a rival to work with, and in which precision; arguments are those.

    `work` is a copy, for the rival to change; images and labels are on the device to work
    on.
    """
    if next(work.model.parameters(), None) is None:
        raise ValueError("model: expected one with parameters, got none")
    with torch.no_grad():
        logits = check_logits(work(images[:SAMPLE]), labels[:SAMPLE])
    check_labels(labels, logits.shape[1])
    if len(images) <= len(labels.unique()):
        # In the one-shot setting rivals get the fixed augmented copies that AWM's authors make.
        images, labels = with_copies(images, labels, torch.Generator().manual_seed(seed))
    sample = work.normalise(images[:SAMPLE])
    compute, used = _compute(settings, precision, work, sample)
    compute.prepare(work.model, work.device)
    generator = torch.Generator().manual_seed(seed)
    task = Task(work.model, images, labels, work.normalise, work.read, compute, generator, progress)
    return task, used


@keep_freed_memory()
def run_baseline(
    pixel_model: PixelModel,
    work: PixelModel,
    images: Tensor,
    labels: Tensor,
    settings: Baseline,
    **options: Any,
) -> PurifyResult:
    """Purifies `work`, a copy of `pixel_model`; the rest as in `make_task` and `purify`."""
    started = time.perf_counter()
    home, device = pixel_model.home, pixel_model.device
    task, used = make_task(work, images, labels, settings, **options)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with used.active():
        found = settings.erase(task)
    if not all(value.isfinite().all() for value in task.model.parameters()):
        raise ValueError(
            f"recipe: expected finite weights, with these settings {settings.name} made NaN or "
            "infinity; smaller steps may help"
        )
    return PurifyResult(
        model=with_state(pixel_model.model, task.model),
        masks={name: mask.to(home) for name, mask in found.masks.items()},
        trigger=None if found.trigger is None else found.trigger.to(home),
        history=found.history,
        seconds=time.perf_counter() - started,
        peak_memory_mb=peak_memory_mb(device),
        recipe=settings,
        precision=used,
        notes=task.notes,
    )


def _compute(
    settings: Baseline,
    precision: str | Precision,
    work: PixelModel,
    sample: Tensor,
) -> tuple[Compute, Precision]:
    """How to compute; asked for, or measured."""
    if isinstance(precision, str):
        asked = asked_precision(precision, sample.dtype)
        if asked is None:
            if not settings.half:
                return Compute(channels_last=work.channels_last), Precision()
            chosen = fastest(
                work.model, sample, work.device, read=work.read, channels_last=work.channels_last
            )
            return chosen, Precision(torch.bfloat16 if chosen.bf16 else torch.float32)
        precision = asked
    if precision.dtype == torch.bfloat16 and not settings.half:
        raise ValueError(f"precision: {settings.name} needs float32, got bfloat16")
    return Compute(precision.dtype == torch.bfloat16, work.channels_last), precision
