"""How well a network classifies, and how often a trigger fools it."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from tqdm import tqdm

from awm_defense.attacks import Attack
from awm_defense.inputs.images import UNKNOWN, Images, Labels, read_images
from awm_defense.networks.logits import Pick
from awm_defense.pixel_model import PixelModel, Stat, check_finite, check_images, check_labels
from awm_defense.settings import check_value
from awm_defense.working.memory import keep_freed_memory

MOST = 10_000
"""Images taken of a data set."""
# A quarter of a step of eight bits; a warp that moves no pixel changes less, for rounding.
ROUNDING = 1e-3


@keep_freed_memory()
def evaluate(
    model: nn.Module,
    images: Images,
    labels: Labels,
    attack: Attack,
    *,
    batch_size: int = 500,
    mean: Stat = None,
    std: Stat = None,
    device: torch.device | str | None = None,
    logits: Pick | None = None,
    progress: bool = False,
) -> dict[str, float]:
    """Measure a network under attack; the model is run in eval mode and given back as it was.

    Args:
        model: takes (N,3,H,W), returns logits (N,classes), or what holds them.
        images: clean test images (N,3,H,W) in [0,1], or in other forms, as `purify` takes them; of
            a data set at most 10,000. At least one outside the target class, of which all-to-all
            attacks have none.
        labels: their true classes (N,); None where a data set has them.
        attack: the attack whose trigger is put on the images.
        batch_size: images per forward pass.
        mean, std: one value a channel, of the normalisation that the model expects; the trigger
            is put on before it. Both or neither.
        device: where to run; the model is moved there. By default where the model is.
        logits: from what the model returns to logits; by default they are looked for, as `purify`
            does.
        progress: show a bar.

    Returns:
        In percent: `acc`, clean images classified right; `asr`, triggered images sent to the
        target, images of the target class left out; `asr_all`, the same with them (as papers
        count, so its floor is the share of that class); `ra`, triggered images still classified
        as their true class, target class left out; `target_acc`, clean images of the target class
        classified right: a network that has lost the class has a low `asr`, too. Without images of
        that class, and of all-to-all attacks, there is no `target_acc`.

    Warns:
        UserWarning: the network gives the same logits to every clean image.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came; also when there
            is nothing to measure, the trigger changes no image, sizes don't match, or logits are
            not finite.
    """
    if not isinstance(attack, Attack):
        raise TypeError(f"attack: expected an Attack, got {type(attack).__name__}")
    images, truth = _with_classes(images, labels)
    targets = attack.targets(truth)
    other = truth != targets
    if not other.any():
        raise ValueError(f"labels: expected some outside the target class {attack.target}")
    changed = False

    def put(batch: Tensor) -> Tensor:
        nonlocal changed
        before = batch if changed else batch.clone()
        made = attack.apply(batch)
        changed = changed or bool((made - before).abs().max() > ROUNDING)
        return made

    pixel_model = PixelModel(model, images, mean=mean, std=std, device=device, logits=logits)
    sent_on = attack.num_classes if attack.target is None else None
    with _settled(pixel_model, images, truth, targets, of=sent_on):
        predict = partial(_predict, pixel_model, images, batch_size, progress)
        # First what may be refused.
        triggered = predict("triggered", put)
        if not changed:
            raise ValueError(
                "attack: expected a trigger that changes images, it changes none of these"
            )
        clean = predict("clean")
    return _figures(clean, truth, triggered, truth, targets)


@keep_freed_memory()
def evaluate_triggered(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    triggered: Tensor,
    originals: Tensor,
    targets: Tensor,
    *,
    batch_size: int = 500,
    mean: Stat = None,
    std: Stat = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> dict[str, float]:
    """As `evaluate`, of images that somebody else has put a trigger on.

    Args:
        model: takes (N,C,H,W), returns logits (N,classes).
        images: clean test images (N,C,H,W), floating point in [0,1].
        labels: their classes, int64 (N,).
        triggered: triggered images (M,C,H,W), which need not be of the same ones.
        originals: what they show, int64 (M,).
        targets: the classes they are to be taken for, int64 (M,).
        batch_size, mean, std, device, progress: as of `evaluate`.

    Raises:
        TypeError, ValueError: naming the argument; also when all are of their target class, or
            logits are not finite.
    """
    check_images("triggered", triggered)
    for name, classes in {"originals": originals, "targets": targets}.items():
        if not isinstance(classes, Tensor) or classes.dtype != torch.int64:
            got = classes.dtype if isinstance(classes, Tensor) else type(classes).__name__
            raise TypeError(f"{name}: expected classes, int64, got {got}")
        if classes.shape != triggered.shape[:1]:
            raise ValueError(
                f"{name}: expected a class of each of {len(triggered)} triggered images, got "
                f"{tuple(classes.shape)}"
            )
    if not (originals != targets).any():
        raise ValueError("triggered images: expected some outside the target class")
    images, labels = _with_classes(images, labels)
    pixel_model = PixelModel(model, images, mean=mean, std=std, device=device)
    with _settled(pixel_model, images, torch.cat([labels, originals]), targets):
        clean = _predict(pixel_model, images, batch_size, progress, "clean")
        found = _predict(pixel_model, triggered, batch_size, progress, "triggered")
    return _figures(clean, labels, found, originals, targets)


def defense_effectiveness(before: dict[str, float], after: dict[str, float]) -> float:
    """The rating DER of a defense in percent, of what `evaluate` returns before and after it.

    50 where nothing changed, 100 where all of an attack success of 100 % went and no accuracy did.
    """
    gain, cost = (max(0.0, before[name] - after[name]) for name in ("asr", "acc"))
    return 50 + (gain - cost) / 2


def _figures(
    clean: Tensor, truth: Tensor, triggered: Tensor, originals: Tensor, targets: Tensor
) -> dict[str, float]:
    """What `evaluate` returns, of what is predicted for clean and for triggered images."""
    hit, right, other = triggered == targets, clean == truth, originals != targets
    found = {
        "acc": _percent(right),
        "asr": _percent(hit[other]),
        "asr_all": _percent(hit),
        "ra": _percent((triggered == originals)[other]),
    }
    of_target = truth == targets[0]
    if (targets == targets[0]).all() and of_target.any():
        found["target_acc"] = _percent(right[of_target])
    return found


@keep_freed_memory()
def accuracy(
    model: nn.Module,
    images: Images,
    labels: Labels = None,
    *,
    batch_size: int = 500,
    mean: Stat = None,
    std: Stat = None,
    device: torch.device | str | None = None,
    logits: Pick | None = None,
    progress: bool = False,
) -> float:
    """Images classified right, in percent; arguments as for `evaluate`."""
    images, truth = _with_classes(images, labels)
    pixel_model = PixelModel(model, images, mean=mean, std=std, device=device, logits=logits)
    with _settled(pixel_model, images, truth):
        found = _predict(pixel_model, images, batch_size, progress, "clean")
    return _percent(found == truth)


@torch.inference_mode()
def _predict(
    pixel_model: PixelModel,
    images: Tensor,
    batch_size: int,
    progress: bool,
    what: str,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The predicted class of each image (N,), int64 on the CPU."""
    batch_size = check_value("batch_size", int, batch_size, 1)
    found: list[Tensor] = []
    first, same = None, True
    for batch in tqdm(images.split(batch_size), what, leave=False, disable=not progress):
        batch = batch.to(pixel_model.device)
        batch = batch if transform is None else transform(batch)
        logits = check_finite(pixel_model(batch))
        found.append(logits.argmax(1).cpu())
        first = logits[:1] if first is None else first
        same = same and bool((logits == first).all())
    if same and transform is None and len(images) > 1:
        warnings.warn(
            f"the network gives the same logits to each of {len(images)} {what} images, so no "
            "figure says anything of it",
            stacklevel=2,
        )
    return torch.cat(found)


@contextmanager
def _settled(
    pixel_model: PixelModel,
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None = None,
    of: int | None = None,
) -> Iterator[None]:
    """On its device, in eval mode, its output known; afterwards each module has the mode it had.

    Raises ValueError where labels or targets are of no class that the model knows, or classes are
    sent on by an attack on another number `of` them.
    """
    model = pixel_model.model.to(pixel_model.device)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            logits = pixel_model.settle(images[:2].to(pixel_model.device))
        check_labels(labels, logits.shape[1])
        if targets is not None and targets.max() >= logits.shape[1]:
            raise ValueError(
                f"attack: expected a target of the {logits.shape[1]} classes that the model knows, "
                f"got {targets.max()}"
            )
        if of is not None and of != logits.shape[1]:
            raise ValueError(
                f"attack: expected num_classes {logits.shape[1]}, as the model knows, got {of}"
            )
        yield
    finally:
        for module in training:
            module.training = True


def _with_classes(images: Images, labels: Labels) -> tuple[Tensor, Tensor]:
    given = read_images(images, labels, most=MOST)
    without = int((given.labels == UNKNOWN).sum())
    if without:
        raise ValueError(
            f"labels: expected the true class of each image to measure, got none for {without} of "
            f"{len(given.labels)}"
        )
    return given.images, given.labels


def _percent(right: Tensor) -> float:
    return 100 * right.double().mean().item()
