"""Looks for a backdoor: the smallest universal triggers that lead to each class."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from awm_defense.allocator import keep_freed_memory
from awm_defense.checks import check_images, check_logits
from awm_defense.compute import Compute
from awm_defense.margins import grow, largest_margins, target_margins
from awm_defense.normalise import Normalise
from awm_defense.triggers import STEPS, Kind, Sparse, kinds
from awm_defense.verdict import THRESHOLD, Reach, Verdict, confirm, judge

IMAGES = 10
"""How many of the images a search takes, at most."""
BATCH = 256
"""Images that go through the network at a time."""

Logits = Callable[[Tensor], Tensor]


@keep_freed_memory()
def examine(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    mean: float | list[float] | Tensor | None = None,
    std: float | list[float] | Tensor | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Verdict:
    """Whether a network looks backdoored, and toward which class.

    For every class universal triggers that lead there are sought (Wang et al., Neural Cleanse,
    IEEE S&P 2019), sparse and faint ones that are added to images and smooth warps of them, and
    grown as far as they go. A planted class is then reached far more strongly than any honest one:
    its trigger is what the network was taught to answer to. One that falls short of that by little
    must also be the class with the largest margin over all images, and stand out in that.

    Args:
        model: the network, images (n, c, h, w) to logits (n, classes); left untouched.
        images: clean images, (n, c, h, w), floating point in [0, 1]; ten are taken, of as many
            classes as there are.
        labels: their classes, int64, (n,).
        mean, std: for a model fed (pixel − mean) / std: a number, or one a channel.
        device: where to work; default: where the model is.
        seed: of the first, small warps, and of noise.
        progress: show a progress bar.

    Returns:
        A `Verdict`; `str` makes a sentence of it.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    check_images(model, images, labels)
    home = next(model.parameters())
    place = torch.device(device) if device is not None else home.device
    work = copy.deepcopy(model).eval().requires_grad_(False)
    # In float32: bfloat16 takes half the time, but moved scores by up to 0.4 in a trial, a good
    # part of what lies between benign and backdoored.
    compute = Compute()
    compute.prepare(work, place)
    images, labels = images.detach().to(place, home.dtype), labels.to(place)
    chosen = choose(labels)
    normalise = Normalise(mean, std, images)

    def logits(batch: Tensor) -> Tensor:
        found: Tensor = work(normalise(batch).contiguous(memory_format=compute.memory_format))
        return found

    generator = torch.Generator().manual_seed(seed)
    images, labels = images[chosen], labels[chosen]
    reaches = search(logits, images, labels, generator, progress=progress)
    verdict = judge(reaches)
    if verdict.narrow:
        classes = len(verdict.margins)
        over_all = largest_margins(
            logits, images, classes, generator, batch=BATCH, progress=progress
        )
        return confirm(reaches, over_all.cpu())
    sparse = Sparse(images)
    if verdict.backdoored and verdict.unit == sparse.unit and verdict.norm > sparse.bounds[-1]:
        second = search_second(logits, images, labels, verdict, reaches)
        verdict = dataclasses.replace(verdict, second=second)
    return verdict


def choose(labels: Tensor) -> Tensor:
    """Indices of `IMAGES` images, the first of each class before the second of any."""
    turns = torch.zeros_like(labels)
    for label in labels.unique():
        same = labels == label
        turns[same] = torch.arange(int(same.sum()), device=labels.device)
    return turns.argsort(stable=True)[:IMAGES]


def search(
    logits: Logits,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    *,
    progress: bool = False,
) -> list[Reach]:
    """How strongly each class is reached, by each kind of trigger within each of its bounds.

    In each kind bounds are tried from large to small while a class stands out, and kinds until one
    does by enough for a backdoor.

    Args:
        logits: the network, from images in pixel space.
        images: (n,c,h,w) in [0,1].
        labels: their classes, int64 (n,).
        generator: on the CPU, of what is random.
        progress: show a bar.
    """
    with torch.no_grad():
        plain = check_logits(logits(images), labels)
    ease = float(target_margins(plain, labels).mean())
    targets = torch.arange(plain.shape[1], device=images.device)
    parts = targets.split(max(1, BATCH // len(images)))
    known = kinds(images)
    steps = 2 * len(parts) * STEPS
    reaches: list[Reach] = []
    total = steps * sum(len(kind.bounds) for kind in known)
    with tqdm(total=total, desc="examine", unit="step", disable=not progress) as bar:
        for kind in known:
            first = kind.start(1, generator)
            climbs = [_Climb(logits, images, labels, kind, part, first) for part in parts]
            for tried, bound in enumerate(kind.bounds, start=1):
                reaches.append(_reach(kind, bound, climbs, ease))
                bar.update(steps)
                if not reaches[-1].outlying:
                    bar.update(steps * (len(kind.bounds) - tried))
                    break
            if any(reach.planted for reach in reaches):
                bar.update(total - bar.n)
                break
    return reaches


def search_second(
    logits: Logits, images: Tensor, labels: Tensor, verdict: Verdict, reaches: list[Reach]
) -> Tensor | None:
    """A trigger apart from a verdict's sparse one that makes its class stand out as well, or None.

    A backdoor answers to several. One that loses its effect while the bounds shrink may share
    little with the planted one.

    Args:
        logits, images, labels: as `search` takes them.
        verdict: with a sparse trigger; the second one lies where that can't grow.
        reaches: what the verdict was made of: within the largest bound of sparse triggers, how
            strongly the usual class is reached.
    """
    forbidden = Sparse(images).farthest(verdict.trigger.to(images)) > 0
    kind = Sparse(images, forbidden)
    climb = _climb_to(verdict.target, logits, images, labels, kind, torch.Generator())
    widest = next(reach for reach in reaches if reach.unit == kind.unit)
    return climb.triggers[0].cpu() if float(climb.grown()) >= THRESHOLD * widest.usual else None


def search_again(
    target: int,
    logits: Logits,
    images: Tensor,
    labels: Tensor,
    kind: Kind,
    generator: torch.Generator,
) -> Tensor:
    """The trigger of one kind, within its largest bound, that leads to a class; on the CPU.

    Args:
        target: the class.
        logits, images, labels, generator: as `search` takes them.
        kind: of the trigger.
    """
    return _climb_to(target, logits, images, labels, kind, generator).triggers[0].cpu()


def _climb_to(
    target: int,
    logits: Logits,
    images: Tensor,
    labels: Tensor,
    kind: Kind,
    generator: torch.Generator,
) -> _Climb:
    """A search for one class, climbed to the largest bound."""
    targets = torch.tensor([target], device=images.device)
    climb = _Climb(logits, images, labels, kind, targets, kind.start(1, generator))
    climb.climb(kind.bounds[0])
    return climb


class _Climb:
    """The search for the triggers to some of the classes."""

    def __init__(
        self,
        logits: Logits,
        images: Tensor,
        labels: Tensor,
        kind: Kind,
        targets: Tensor,
        first: Tensor,
    ) -> None:
        self.logits, self.kind = logits, kind
        self.count, self.each = len(targets), len(images)
        # Row i is an image under the trigger to `targets[i // each]`.
        self.images = images.repeat(self.count, 1, 1, 1)
        self.targets = targets.repeat_interleave(self.each)
        self.counts = (self.targets != labels.repeat(self.count)).to(images.dtype)
        self.triggers = first.repeat_interleave(self.count, dim=0)

    def triggered(self, triggers: Tensor) -> Tensor:
        """The logits of all images under triggers (targets,...)."""
        spread = triggers.repeat_interleave(self.each, dim=0)
        return self.logits(self.kind.apply(self.images, spread))

    def climb(self, bound: float) -> Tensor:
        """All steps within a bound; returns which share of images flips, (targets,)."""
        for _ in range(STEPS):
            self.triggers = self.triggers.detach().requires_grad_()
            losses = cross_entropy(self.triggered(self.triggers), self.targets, reduction="none")
            (grad,) = torch.autograd.grad(losses @ self.counts, self.triggers)
            self.triggers = self.kind.step(self.triggers.detach(), grad, bound)
        with torch.no_grad():
            reached = target_margins(self.triggered(self.triggers), self.targets) > 0
            return self.mean(reached.to(self.counts))

    def grown(self) -> Tensor:
        """The margin of each trigger when it is grown as far as its kind allows, (targets,)."""
        plain = self.images[: self.each]
        limits = [self.kind.limits(trigger, plain) for trigger in self.triggers]
        least, most = (torch.stack(side) for side in zip(*limits, strict=True))

        def margins(triggers: Tensor) -> Tensor:
            return self.mean(target_margins(self.triggered(triggers), self.targets))

        grown = grow(margins, least, most)
        with torch.no_grad():
            return margins(grown)

    def mean(self, rows: Tensor) -> Tensor:
        """Over each target's images that are of other classes, (targets,)."""
        number = self.counts.view(self.count, -1).sum(1).clamp(min=1)
        return (rows * self.counts).view(self.count, -1).sum(1) / number


def _reach(kind: Kind, bound: float, climbs: list[_Climb], ease: float) -> Reach:
    flips = torch.cat([climb.climb(bound) for climb in climbs])
    return Reach(
        kind=kind.name,
        unit=kind.unit,
        bound=bound,
        triggers=torch.cat([climb.triggers for climb in climbs]).detach().cpu(),
        flips=flips.cpu(),
        margins=torch.cat([climb.grown() for climb in climbs]).cpu(),
        ease=ease,
    )
