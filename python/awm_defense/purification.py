"""The front door: a network and a few clean images in, the network without its backdoor out."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from awm_defense.awm.engine import Engine, make_engine
from awm_defense.awm.recipe import Recipe
from awm_defense.baselines.baseline import Baseline
from awm_defense.baselines.run import run_baseline
from awm_defense.examination.examine import examine_images, weakness
from awm_defense.examination.verdict import Verdict
from awm_defense.files.text import escape
from awm_defense.inputs.images import Images, Labels, read_images
from awm_defense.inputs.take import Taken, take
from awm_defense.networks.back import with_masks
from awm_defense.networks.logits import Pick
from awm_defense.networks.masked import FEW, coverage, share
from awm_defense.networks.wrappers import unwrapped
from awm_defense.pixel_model import PixelModel, Stat
from awm_defense.portions import Portions
from awm_defense.registry import get_settings
from awm_defense.result import PurifyResult, peak_memory_mb
from awm_defense.settings import Settings, check_seed, check_value
from awm_defense.working.at_once import check_memory, images_at_once
from awm_defense.working.memory import keep_freed_memory, trim
from awm_defense.working.modes import each_in_own_modes
from awm_defense.working.precision import Precision
from awm_defense.working.sources import forget_sources


def purify(
    model: nn.Module,
    images: Images,
    labels: Labels = None,
    *,
    recipe: str | Settings = "default",
    mean: Stat = None,
    std: Stat = None,
    device: str | torch.device | None = None,
    precision: str | Precision = "auto",
    captured: bool = True,
    seed: int = 0,
    max_memory: float | None = None,
    logits: Pick | None = None,
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
        images: clean images, (n, c, h, w), in [0, 1]; n may be smaller than a batch. Also in other
            forms: bytes, arrays, pictures, data sets, loaders (`awm_defense.inputs.images`).
        labels: their classes, (n,). None, or −1 for some: what the network says of them.
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
        logits: from what the model returns to logits (n, classes). By default they are looked for:
            the output, its `logits`, or the first matrix in a tuple or dictionary.
        progress: show a progress bar, and say notes on standard error.

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
        logits=logits,
        progress=progress,
    )
    return result


@each_in_own_modes
def purify_many(
    models: Iterable[nn.Module],
    images: Images,
    labels: Labels = None,
    *,
    recipe: str | Settings = "default",
    mean: Stat = None,
    std: Stat = None,
    device: str | torch.device | None = None,
    precision: str | Precision = "auto",
    captured: bool = True,
    seed: int = 0,
    max_memory: float | None = None,
    logits: Pick | None = None,
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
    if not isinstance(settings, Settings):
        raise TypeError(f"recipe: expected a name or settings, got {type(settings).__name__}")
    if not isinstance(precision, str | Precision):
        raise TypeError(f"precision: expected a name or one, got {type(precision).__name__}")
    several = isinstance(models, Iterable)
    if not several or (isinstance(models, nn.Module) and not isinstance(models, nn.ModuleList)):
        raise TypeError(f"models: expected several networks, got {type(models).__name__}")
    check_value("captured", bool, captured, 0)
    check_memory(max_memory)
    seed = check_seed(seed)
    options: dict[str, Any] = {"precision": precision, "seed": seed}
    shared = _Shared(settings, captured=captured, **options)
    given = read_images(images, labels)
    for model in models:
        pixel_model = PixelModel(
            model, given.images, mean=mean, std=std, device=device, logits=logits
        )
        pixel_model.portions = portions = shared.portions
        work = portions.fit(partial(pixel_model.copy, given.images))
        if isinstance(settings, Recipe) and portions.most is None:
            measure = partial(images_at_once, work, given.images, max_memory)
            portions.most = portions.fit(measure)
        taken = take(work, given)
        notes = [*work.notes, *taken.notes]
        if progress:
            _say(taken.notes)  # at once: the rest may take long
        # What the first network says of them serves for the others, too.
        given = given._replace(labels=taken.labels.cpu())
        if not isinstance(settings, Recipe):
            assert isinstance(settings, Baseline)
            result = run_baseline(
                pixel_model,
                work,
                taken.images,
                taken.labels,
                settings,
                progress=progress,
                **options,
            )
            result.notes[:0] = notes
            if progress:
                _say(note for note in result.notes if note not in taken.notes)
            yield result
            continue
        with keep_freed_memory(), forget_sources():
            started = time.perf_counter()
            if pixel_model.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(pixel_model.device)
            begin = partial(shared.take, work, taken, notes)
            engine = portions.fit(begin)
            verdict: Verdict | None = None
            history: list[dict[str, float]] = []
            finished = True
            if settings.examine:
                look = partial(
                    examine_images,
                    work,
                    taken.images,
                    taken.labels,
                    seed=seed,
                    progress=progress,
                    bf16=engine.network.precision.dtype == torch.bfloat16,
                )
                verdict = portions.fit(look)
            if verdict is not None and verdict.backdoored is False:
                notes += [_returned(verdict), *weakness(verdict, taken.labels)]
                engine.buffers.delta.zero_()
            else:
                del engine  # it must be gone where memory runs out
                planted = verdict if verdict is not None and verdict.backdoored else None
                epochs = partial(shared.epochs, begin, planted, notes, progress)
                engine, history, finished = portions.fit(epochs)
            # One that is made twice says twice what does not go as usual.
            notes = [*dict.fromkeys(notes), *portions.note()]
            result = _result(model, engine, history, notes, started, verdict, not finished)
        if progress:
            _say(note for note in result.notes if note not in taken.notes)
        yield result
        if not finished:
            return


class _Shared:
    """What the purifications of several models share.

    Args:
        recipe: that they follow.
        options: as `make_engine` takes them.
    """

    def __init__(self, recipe: Settings, **options: Any) -> None:
        self.recipe, self.options = recipe, options
        self.portions = Portions()
        self.engine: Engine | None = None

    def take(self, work: PixelModel, taken: Taken, notes: list[str]) -> Engine:
        """The engine, which now works on that model."""
        assert isinstance(self.recipe, Recipe)
        # One that fails is not used again.
        engine, self.engine = self.engine, None
        if engine is None:
            engine = make_engine(
                work, taken.images, taken.labels, self.recipe, notes=notes, **self.options
            )
            # Setting up and measuring hold more than one copy of the network.
            trim()
        else:
            engine.network.load(work.model, notes)
        engine.data.restart()
        self.engine = engine
        return engine

    def epochs(
        self,
        take: Callable[[], Engine],
        planted: Verdict | None,
        notes: list[str],
        progress: bool,
    ) -> tuple[Engine, list[dict[str, float]], bool]:
        """Follow what was found planted; the engine, and what `_run` returns."""
        engine = self.engine or take()
        self.engine = None
        with engine.network.precision.active():
            engine.follow(planted, progress=progress)
            history, finished = _run(engine, notes, progress)
        self.engine = engine
        return engine, history, finished


def _say(notes: Iterable[str]) -> None:
    for note in notes:
        tqdm.write(f"note: {escape(note)}", file=sys.stderr)


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
    home, flat = next(model.parameters()).device, engine.network.flat
    masks = {name: mask.to(home) for name, mask in flat.masks().items()}
    purified = with_masks(model, masks)
    covered = coverage(unwrapped(purified), flat.names)
    if share(covered) < FEW:
        notes.append(_few(covered))
    return PurifyResult(
        model=purified,
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
        coverage=covered,
    )


def _few(covered: dict[str, tuple[int, int]]) -> str:
    without = {kind: count - having for kind, (having, count) in covered.items()}
    most = max(without, key=lambda kind: without[kind])
    return (
        f"masks lie on {100 * share(covered):.2g} % of the weights; most of those without are of "
        f"kind {most!r}: layers='all', or patterns of names, would mask more"
    )
