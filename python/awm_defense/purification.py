"""The front door: a network and a few clean images in, the network without its backdoor out."""

import copy
import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from awm_defense.awm.engine import Engine, make_engine
from awm_defense.awm.recipe import Recipe
from awm_defense.baselines.baseline import Baseline
from awm_defense.baselines.run import run_baseline
from awm_defense.examination.examine import examine_images
from awm_defense.examination.verdict import Verdict
from awm_defense.pixel_model import PixelModel, Stat
from awm_defense.registry import get_settings
from awm_defense.result import PurifyResult, peak_memory_mb
from awm_defense.settings import Settings
from awm_defense.working.chunks import images_at_once
from awm_defense.working.flat import maskable
from awm_defense.working.memory import keep_freed_memory, trim
from awm_defense.working.precision import Precision


def purify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    recipe: str | Settings = "default",
    mean: Stat = None,
    std: Stat = None,
    device: str | torch.device | None = None,
    precision: str | Precision = "auto",
    captured: bool = True,
    seed: int = 0,
    max_memory: float | None = None,
    progress: bool = False,
) -> PurifyResult:
    """Erase a backdoor with as little as one clean image per class (AWM paper, Algorithm 1).

    Ctrl-C ends AWM early, with the masks of the last whole epoch; in the first one nothing is
    masked, and the history is empty. The examination and the growing of triggers before it, and
    rivals, it ends without a result.

    Meanwhile freed memory stays with the process (see `awm_defense.working.memory`).

    Args:
        model: the network, images (n, c, h, w) to logits (n, classes). It is left untouched and
            always evaluated in eval mode.
        images: clean images, (n, c, h, w), floating point in [0, 1]; n may be smaller than a batch.
        labels: their classes, int64, (n,).
        recipe: "paper", "official" or "default", or a `Recipe`; or a rival defense to compare
            with: "anp", "anp-swm", "ibau", "finetune", "fine-pruning", "clp", or their settings
            (`BASELINES`).
        mean, std: for a model fed (pixel − mean) / std: a number, or one a channel. The trigger
            and its clipping stay in pixel space.
        device: where to work; default: where the model is. The result lives where the model is.
        precision: "fp32"; "tf32"; "bf16"; or "auto": bfloat16 on CUDA, and on a CPU for those
            passes of those layers where it is measured to be faster, if the logits of the images
            agree with float32. The measurement can differ between runs: give an earlier result's
            `precision` for the same masks to the last bit. For a rival, "auto" is what trains
            fastest (bfloat16 by autocast), or float32 where its method needs that.
        captured: replay each step as a CUDA graph; False runs eagerly, as a CPU always does.
        seed: fixes batches and augmentation.
        max_memory: GiB for AWM to stay within, by fewer images at a time; default: 6 on a CPU, and
            what a GPU has. The network's weights must leave half of it free. Where it takes more
            than one turn a step, the forward pass is computed twice.
        progress: show a progress bar.

    Returns:
        A `PurifyResult`.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    (result,) = purify_many(
        [model],
        images,
        labels,
        recipe=recipe,
        mean=mean,
        std=std,
        device=device,
        precision=precision,
        captured=captured,
        seed=seed,
        max_memory=max_memory,
        progress=progress,
    )
    return result


def purify_many(
    models: Iterable[nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    recipe: str | Settings = "default",
    mean: Stat = None,
    std: Stat = None,
    device: str | torch.device | None = None,
    precision: str | Precision = "auto",
    captured: bool = True,
    seed: int = 0,
    max_memory: float | None = None,
    progress: bool = False,
) -> Iterator[PurifyResult]:
    """`purify` for many models of one architecture, which share what is measured and captured.

    Args:
        models: the networks, taken one at a time; parameters and buffers of the same names and
            shapes. The other arguments are those of `purify`.

    Yields:
        Each model's result, the same as `purify` gives it with the first result's `precision`.
        After a Ctrl-C the interrupted one is the last.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    settings = get_settings(recipe) if isinstance(recipe, str) else recipe
    engine: Engine | None = None
    for model in models:
        pixel_model = PixelModel(model, images, mean=mean, std=std, device=device)
        given = pixel_model.take(images, labels)
        options: dict[str, Any] = {"precision": precision, "seed": seed}
        if not isinstance(settings, Recipe):
            assert isinstance(settings, Baseline)
            yield run_baseline(pixel_model, *given, settings, progress=progress, **options)
            continue
        if not maskable(model, settings.layers):
            hint = (
                "" if settings.layers == "all" else "; the recipe's layers='all' masks every sort"
            )
            raise ValueError(
                f"model: expected layers to mask (layers={settings.layers!r}), got none{hint}"
            )
        with keep_freed_memory():
            started = time.perf_counter()
            if pixel_model.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(pixel_model.device)
            notes: list[str] = []
            if pixel_model.device != pixel_model.home:
                pixel_model = pixel_model.copy()
            if engine is None:
                at_once = images_at_once(pixel_model, given[0], max_memory)
                engine = make_engine(
                    pixel_model,
                    *given,
                    settings,
                    captured=captured,
                    at_once=at_once,
                    notes=notes,
                    **options,
                )
                # Setting up and measuring hold more than one copy of the network.
                trim()
            else:
                engine.network.load(pixel_model.model, notes)
            engine.data.restart()
            verdict: Verdict | None = None
            history: list[dict[str, float]] = []
            finished = True
            if settings.examine:
                verdict = examine_images(
                    pixel_model, *given, at_once=at_once, seed=seed, progress=progress
                )
            if verdict is not None and verdict.backdoored is False:
                notes.append(_returned(verdict))
                engine.buffers.delta.zero_()
            else:
                with engine.network.precision.active():
                    planted = verdict if verdict is not None and verdict.backdoored else None
                    engine.follow(planted, progress=progress)
                    history, finished = _run(engine, notes, progress)
            result = _result(model, engine, history, notes, started, verdict, not finished)
        yield result
        if not finished:
            return


def _returned(verdict: Verdict) -> str:
    kept = "the network looks clean and is returned as it was"
    if not verdict.narrow:
        return kept
    return (
        f"{kept}, but class {verdict.target} stands out by little less than a planted one: where "
        "you have reason to distrust it, examine=false with a larger tau purifies all the same"
    )


def _run(engine: Engine, notes: list[str], progress: bool) -> tuple[list[dict[str, float]], bool]:
    """All epochs; returns their history, and False if they were interrupted."""
    history: list[dict[str, float]] = []
    mask = engine.network.flat.mask
    bar = tqdm(range(engine.recipe.epochs), desc="purify", unit="epoch", disable=not progress)
    for epoch in bar:
        before = mask.clone()
        try:
            entry = engine.epoch(epoch)
        except KeyboardInterrupt:
            engine.network.flat.restore(before)
            kept = "the masks before it are returned" if epoch else "nothing was changed"
            notes.append(f"interrupted in epoch {epoch + 1}; {kept}")
            return history, False
        bad = entry.pop("bad")
        if bad or not all(map(math.isfinite, entry.values())):
            engine.network.flat.restore(before)
            notes.append(
                f"epoch {epoch + 1} met non-finite values; the masks before it are returned"
            )
            break
        history.append(entry)
        losses = {key.removesuffix("_loss"): entry[key] for key in entry if key.endswith("_loss")}
        bar.set_postfix({name: f"{loss:.3f}" for name, loss in losses.items()})
    return history, True


def _result(
    model: nn.Module,
    engine: Engine,
    history: list[dict[str, float]],
    notes: list[str],
    started: float,
    verdict: Verdict | None,
    interrupted: bool,
) -> PurifyResult:
    home = next(model.parameters()).device
    masks = {name: mask.to(home) for name, mask in engine.network.flat.masks().items()}
    return PurifyResult(
        model=_purified(model, masks),
        masks=masks,
        trigger=engine.buffers.delta.to(home, copy=True),
        history=history,
        seconds=time.perf_counter() - started,
        peak_memory_mb=peak_memory_mb(engine.buffers.delta.device),
        recipe=engine.recipe,
        precision=engine.network.precision,
        notes=notes,
        verdict=verdict,
        interrupted=interrupted,
    )


def _purified(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    purified = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            weight = purified.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            weight.mul_(mask.to(weight))
    return purified
