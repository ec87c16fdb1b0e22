"""The report of one purification: `report.json` for programs, `report.html` for people."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import awm_kernels
from awm_defense.files.text import sentence
from awm_defense.files.together import FILES, write_together
from awm_defense.networks.masked import share
from awm_defense.report.page import page
from awm_defense.report.pictures import (
    draw_history,
    draw_image,
    draw_margins,
    draw_masks,
    draw_trigger,
)
from awm_defense.result import PurifyResult
from awm_defense.triggers import family_of

REPORT, PAGE = "report.json", "report.html"
PICTURES = (
    "clean.png",
    "triggered.png",
    "found.png",
    "recovered.png",
    "trigger.png",
    "margins.png",
    "masks.png",
    "history.png",
)
WRITTEN = (REPORT, PAGE, *PICTURES)
"""The names of all files that a report may have."""
ENTRIES = ("title", "recipe", "history")
"""Some that every report.json has."""


def write_report(
    out_dir: Path,
    *,
    result: PurifyResult,
    title: str,
    before: Mapping[str, float] | None = None,
    after: Mapping[str, float] | None = None,
    extra: Mapping[str, Any] | None = None,
    triggered_image: Tensor | None = None,
    clean_image: Tensor | None = None,
    weights: Mapping[str, bytes | None] | None = None,
) -> Path:
    """Write report.json, report.html and the pictures; return the folder that they are in.

    All is made in memory and then written together, report.json last: it is the sign that the
    other files are there and belong to it. It lists them.

    Args:
        out_dir: an existing folder; an earlier report in it is replaced, pictures included. Where a
            file of another origin has one of the names, all is written into a new folder in it.
        result: what `purify` returned.
        title: the heading.
        before, after: metrics in percent (`acc`, `asr`, ...), where an attack is known.
        extra: further facts that JSON can hold, such as the seed and the data set.
        triggered_image: one image (3,H,W) in [0,1] with the attacker's trigger.
        clean_image: one image (3,H,W) in [0,1]; written with Δ added, too, and with
            the trigger that the verdict found.
        weights: files that belong to the report and are written with it, by name; their SHA-256 is
            recorded. None removes a file of that name.

    Raises:
        OSError: naming a file that can't be written.
    """
    weights = weights or {}
    digests = {name: sha256(data).hexdigest() for name, data in weights.items() if data is not None}
    pictures, captions = _draw(result, triggered_image, clean_image)
    facts = {**(extra or {}), "sha256": digests} if digests else extra or {}
    written = [name for name, data in weights.items() if data is not None]
    facts = {**facts, FILES: sorted([*written, *pictures, PAGE, REPORT])}
    report = _collect(result, title, before, after, facts)
    # Python would write a bare NaN, which no JSON reader takes.
    text = json.dumps(_finite(report), indent=2, allow_nan=False)
    html = page(result, report, captions, pictures)
    files = {
        **weights,
        **dict.fromkeys(PICTURES),
        **pictures,
        PAGE: html.encode("utf-8"),
        REPORT: (text + "\n").encode("utf-8"),
    }
    return write_together(out_dir, files, sign=REPORT, entries=ENTRIES)


def _collect(
    result: PurifyResult,
    title: str,
    before: Mapping[str, float] | None,
    after: Mapping[str, float] | None,
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    metrics = {"before": before, "after": after}
    return {
        "title": title,
        **{when: dict(found) for when, found in metrics.items() if found is not None},
        "seconds": result.seconds,
        "peak_memory_mb": result.peak_memory_mb,
        "recipe": asdict(result.recipe),
        "precision": result.precision.describe(),
        **extra,
        "versions": {"torch": torch.__version__, "awm_kernels": awm_kernels.__version__},
        "masked_share": share(result.coverage) if result.coverage else None,
        "coverage": {kind: list(counts) for kind, counts in result.coverage.items()},
        "masks": {name: mask.float().mean().item() for name, mask in result.masks.items()},
        "trigger_l1": None if result.trigger is None else result.trigger.float().abs().sum().item(),
        "verdict": None if result.verdict is None else result.verdict.facts(),
        "notes": list(result.notes),
        "history": [dict(epoch) for epoch in result.history],
    }


def _draw(
    result: PurifyResult, triggered: Tensor | None, clean: Tensor | None
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Every picture by its file name, and captions of the small ones, in reading order.

    One that can't be drawn is left out, with a note: the result does not depend on it.
    """
    trigger = None if result.trigger is None else result.trigger.detach().float().cpu()
    images: dict[str, tuple[Tensor, str]] = {}
    if clean is not None:
        images["clean.png"] = (clean, "a clean image")
    if triggered is not None:
        images["triggered.png"] = (triggered, "the same with the attacker's trigger")
    verdict = result.verdict
    if clean is not None and verdict is not None and verdict.backdoored:
        one = clean.detach().float().cpu()[None]
        (found,) = family_of(verdict.unit, one).apply(one, verdict.trigger[None].to(one))
        text = f"the same with the smallest trigger found for class {verdict.target}"
        images["found.png"] = (found, text)
    if clean is not None and trigger is not None:
        recovered = clean.detach().float().cpu() + trigger
        images["recovered.png"] = (recovered, "the same with the recovered trigger Δ")
    makers: dict[str, Callable[[], bytes]] = {
        name: partial(draw_image, image) for name, (image, _) in images.items()
    }
    captions = {name: caption for name, (_, caption) in images.items()}
    if trigger is not None:
        makers["trigger.png"] = partial(draw_trigger, trigger)
        largest = f"{trigger.abs().max():.2f}"
        captions["trigger.png"] = f"Δ; grey is none, white and black ±{largest}"
    if verdict is not None:
        makers["margins.png"] = partial(draw_margins, verdict)
    if result.masks:
        makers["masks.png"] = partial(draw_masks, result.masks)
    if result.history:
        makers["history.png"] = partial(draw_history, result.history)
    pictures = {}
    for name, make in makers.items():
        try:
            pictures[name] = make()
        except Exception as error:  # another package's, with settings and fonts of its own
            result.notes.append(f"{name} can't be drawn: {sentence(error)}")
    return pictures, {name: text for name, text in captions.items() if name in pictures}


def _finite(value: Any) -> Any:
    """`value` with NaN and infinity replaced by None, all the way down."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
