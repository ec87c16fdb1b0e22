"""Adversarial Weight Masking: find the worst universal trigger, mask it away, repeat."""

from __future__ import annotations

import copy
import math
import resource
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm import tqdm

from awm_defense.batches import Batches
from awm_defense.engine import Engine
from awm_defense.flat import maskable
from awm_defense.network import WorkingNetwork
from awm_defense.precision import Precision
from awm_defense.recipes import Recipe, get_recipe


@dataclass(repr=False)
class PurifyResult:
    """What `purify` returns."""

    model: nn.Module
    """A copy of the given model, same class, its weights replaced by m ⊙ θ."""
    masks: dict[str, Tensor]
    """m of each masked layer, by its name, in its weight's shape; in [0, 1]."""
    trigger: Tensor
    """Δ of the last epoch, (c, h, w), in pixel space (values of images in [0, 1])."""
    history: list[dict[str, float]]
    """One entry an epoch: epoch, trigger_loss, trigger_norm (L1, in the ball), clean_loss,
    perturbed_loss (means over the epoch's steps), mask_mean (of all masks, at its end)."""
    seconds: float
    """Wall-clock time of the purification."""
    peak_memory_mb: float
    """CUDA: peak of memory allocated meanwhile. CPU: peak resident size of the process."""
    recipe: Recipe
    """The recipe, with every value that was used."""
    precision: Precision
    """The dtypes that were used; give it to `purify` to repeat the run exactly."""
    notes: list[str] = field(default_factory=list)
    """What did not go as usual: fallbacks, non-finite values, an interruption."""
    interrupted: bool = False
    """Whether Ctrl-C ended it; the masks are those of the last whole epoch."""

    def __repr__(self) -> str:
        kept = sum(float(mask.sum()) for mask in self.masks.values())
        total = sum(mask.numel() for mask in self.masks.values())
        return (
            f"<PurifyResult: {type(self.model).__name__}, {self.recipe.name}, "
            f"{len(self.history)} epochs, {self.seconds:.1f} s, mean mask {kept / total:.3f}, "
            f"{len(self.notes)} notes>"
        )


def _check(model: nn.Module, images: Tensor, labels: Tensor, layers: str) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if not maskable(model, layers):
        raise ValueError(f"model: expected layers to mask (layers={layers!r}), got none")
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images: expected a floating-point tensor, got {got}")
    if images.dim() != 4 or images.shape[0] == 0:
        raise ValueError(f"images: expected shape (n ≥ 1, c, h, w), got {tuple(images.shape)}")
    if images.min() < 0 or images.max() > 1:
        raise ValueError(
            "images: expected pixel values in [0, 1] (give mean and std for a model fed "
            f"normalised input), got {images.min():.3g} to {images.max():.3g}"
        )
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels: expected an int64 tensor, got {got}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"labels: expected shape ({len(images)},), got {tuple(labels.shape)}")


def _pixel_stat(name: str, value: object, like: Tensor) -> Tensor | None:
    """mean or std, one number or one a channel, as (1, c or 1, 1, 1)."""
    if value is None:
        return None
    stat = torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1)
    if stat.shape[1] not in (1, like.shape[1]):
        raise ValueError(f"{name}: expected 1 or {like.shape[1]} numbers, got {stat.shape[1]}")
    return stat


def _purified(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    purified = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            weight = purified.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            weight.mul_(mask.to(weight))
    return purified


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def purify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    recipe: str | Recipe = "default",
    mean: float | list[float] | Tensor | None = None,
    std: float | list[float] | Tensor | None = None,
    device: str | torch.device | None = None,
    precision: str | Precision = "auto",
    captured: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> PurifyResult:
    """Erase a backdoor with as little as one clean image per class (AWM paper, Algorithm 1).

    Ctrl-C ends it early, with the masks of the last whole epoch.

    Args:
        model: the network, images (n, c, h, w) to logits (n, classes). It is left untouched and
            always evaluated in eval mode.
        images: clean images, (n, c, h, w), floating point in [0, 1]; n may be smaller than a batch.
        labels: their classes, int64, (n,).
        recipe: "paper", "official", "default", or a `Recipe`.
        mean, std: for a model fed (pixel − mean) / std: a number, or one a channel. The trigger
            and its clipping stay in pixel space.
        device: where to work; default: where the model is. The result lives where the model is.
        precision: "fp32"; "tf32"; "bf16"; or "auto": bfloat16 on CUDA, and on a CPU for those
            passes of those layers where it is measured to be faster, if the logits of the images
            agree with float32. The measurement can differ between runs: give an earlier result's
            `precision` for the same masks to the last bit.
        captured: replay each step as a CUDA graph; False runs eagerly, as a CPU always does.
        seed: fixes batches and augmentation.
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
        progress=progress,
    )
    return result


def purify_many(
    models: Iterable[nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    recipe: str | Recipe = "default",
    mean: float | list[float] | Tensor | None = None,
    std: float | list[float] | Tensor | None = None,
    device: str | torch.device | None = None,
    precision: str | Precision = "auto",
    captured: bool = True,
    seed: int = 0,
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
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    if (mean is None) != (std is None):
        raise ValueError("mean, std: expected both or neither")
    engine: Engine | None = None
    for model in models:
        _check(model, images, labels, recipe.layers)
        started = time.perf_counter()
        home = next(model.parameters())
        work_device = torch.device(device) if device is not None else home.device
        if work_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(work_device)
        notes: list[str] = []
        source = model if work_device == home.device else copy.deepcopy(model).to(work_device)
        if engine is None:
            engine = make_engine(
                source,
                images,
                labels,
                recipe,
                mean=mean,
                std=std,
                device=work_device,
                precision=precision,
                captured=captured,
                seed=seed,
                notes=notes,
            )
        else:
            engine.network.load(source, notes)
        engine.data.restart()
        with engine.network.precision.active():
            history, finished = _run(engine, notes, progress)
        yield _result(model, engine, history, notes, started, not finished)
        if not finished:
            return


def make_engine(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    mean: float | list[float] | Tensor | None = None,
    std: float | list[float] | Tensor | None = None,
    device: torch.device,
    precision: str | Precision = "auto",
    captured: bool = True,
    seed: int = 0,
    notes: list[str] | None = None,
) -> Engine:
    """What `purify` runs, for those who run single steps; arguments are those of `purify`.

    `model` is on `device` already; `notes` receives what does not go as usual.
    """
    notes = [] if notes is None else notes
    images = images.detach().to(device, next(model.parameters()).dtype)
    classes = len(labels.unique())
    recipe = recipe.resolve(len(images), classes)
    data = Batches(images, labels.to(device), recipe, len(images) <= classes, seed)
    # As many images as a mask step's batch holds.
    sample = images.repeat(-(-2 * data.batch // len(images)), 1, 1, 1)[: 2 * data.batch]
    pixel_mean, pixel_std = _pixel_stat("mean", mean, images), _pixel_stat("std", std, images)
    network = WorkingNetwork(model, recipe, sample, pixel_mean, pixel_std, precision, notes)
    if labels.min() < 0 or labels.max() >= network.classes:
        raise ValueError(
            f"labels: expected classes from 0 to {network.classes - 1}, "
            f"got {labels.min()} to {labels.max()}"
        )
    return Engine(network, data, recipe, captured=captured)


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
            notes.append(f"interrupted in epoch {epoch + 1}; the masks before it are returned")
            return history, False
        bad = entry.pop("bad")
        if bad or not all(map(math.isfinite, entry.values())):
            engine.network.flat.restore(before)
            notes.append(
                f"epoch {epoch + 1} met non-finite values; the masks before it are returned"
            )
            break
        history.append(entry)
        bar.set_postfix(
            clean=f"{entry['clean_loss']:.3f}", perturbed=f"{entry['perturbed_loss']:.3f}"
        )
    return history, True


def _result(
    model: nn.Module,
    engine: Engine,
    history: list[dict[str, float]],
    notes: list[str],
    started: float,
    interrupted: bool,
) -> PurifyResult:
    home = next(model.parameters()).device
    masks = {name: mask.to(home) for name, mask in engine.network.flat.masks().items()}
    return PurifyResult(
        model=_purified(model, masks),
        masks=masks,
        trigger=engine.delta.to(home, copy=True),
        history=history,
        seconds=time.perf_counter() - started,
        peak_memory_mb=_peak_memory_mb(engine.delta.device),
        recipe=engine.recipe,
        precision=engine.network.precision,
        notes=notes,
        interrupted=interrupted,
    )
