"""The report of one purification: `report.json` for programs, `report.html` for people."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import awm_kernels
from awm_defense.report.page import page
from awm_defense.report.pictures import (
    save_history,
    save_image,
    save_margins,
    save_masks,
    save_trigger,
)
from awm_defense.result import PurifyResult
from awm_defense.triggers import family_of

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
) -> dict[str, Any]:
    """Write report.json, report.html and the pictures into `out_dir`; return what the JSON holds.

    Args:
        out_dir: an existing folder; an earlier report in it is replaced, pictures included.
        result: what `purify` returned.
        title: the heading.
        before, after: metrics in percent (`acc`, `asr`, ...), where an attack is known.
        extra: further facts that JSON can hold, such as the seed and the data set.
        triggered_image: one image (3,H,W) in [0,1] with the attacker's trigger.
        clean_image: one image (3,H,W) in [0,1]; written with Δ added, too, and with
            the trigger that the verdict found.
    """
    pictures = _write_pictures(out_dir, result, triggered_image, clean_image)
    report = _collect(result, title, before, after, extra or {})
    # Python would write a bare NaN, which no JSON reader takes.
    text = json.dumps(_finite(report), indent=2, allow_nan=False)
    (out_dir / "report.json").write_text(text + "\n", encoding="utf-8")
    (out_dir / "report.html").write_text(page(out_dir, result, report, pictures), encoding="utf-8")
    return report


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
        "masks": {name: mask.float().mean().item() for name, mask in result.masks.items()},
        "trigger_l1": None if result.trigger is None else result.trigger.float().abs().sum().item(),
        "verdict": None if result.verdict is None else result.verdict.facts(),
        "notes": list(result.notes),
        "history": [dict(epoch) for epoch in result.history],
    }


def _write_pictures(
    out_dir: Path, result: PurifyResult, triggered: Tensor | None, clean: Tensor | None
) -> dict[str, str]:
    """Write every picture; returns file name -> caption of the small ones, in reading order."""
    for name in PICTURES:
        (out_dir / name).unlink(missing_ok=True)
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
    for name, (image, _) in images.items():
        save_image(out_dir / name, image)
    captions = {name: caption for name, (_, caption) in images.items()}
    if trigger is not None:
        save_trigger(out_dir / "trigger.png", trigger)
        largest = f"{trigger.abs().max():.2f}"
        captions["trigger.png"] = f"Δ; grey is none, white and black ±{largest}"
    if verdict is not None:
        save_margins(out_dir / "margins.png", verdict.margins, verdict.target)
    if result.masks:
        save_masks(out_dir / "masks.png", result.masks)
    if result.history:
        save_history(out_dir / "history.png", result.history)
    return captions


def _finite(value: Any) -> Any:
    """`value` with NaN and infinity replaced by None, all the way down."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
