"""Looks for a backdoor: the smallest universal triggers that lead to each class."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from awm_defense.checks import check_images
from awm_defense.compute import Compute
from awm_defense.margins import grow, target_margins
from awm_defense.normalise import Normalise
from awm_defense.triggers import STEPS, Kind, kinds
from awm_defense.verdict import Reach, Verdict, judge

IMAGES = 10
"""How many of the images a search takes, at most."""
BATCH = 256
"""Images that go through the network at a time."""
KEPT = 0.5
"""The share of its margin that a class has to keep within a smaller bound."""

Logits = Callable[[Tensor], Tensor]


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
    its trigger is what the network was taught to answer to.

    Args:
        model: the network, images (n, c, h, w) to logits (n, classes); left untouched.
        images: clean images, (n, c, h, w), floating point in [0, 1]; ten are taken, of as many
            classes as there are.
        labels: their classes, int64, (n,).
        mean, std: for a model fed (pixel − mean) / std: a number, or one a channel.
        device: where to work; default: where the model is.
        seed: of the first, small warps.
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
    return judge(search(logits, images[chosen], labels[chosen], generator, progress=progress))


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

    Kinds are tried until a class stands out within the largest bound. For that class alone, smaller
    bounds are tried while it keeps its margin.

    Args:
        logits: the network, from images in pixel space.
        images: (n,c,h,w) in [0,1].
        labels: their classes, int64 (n,).
        generator: on the CPU, of what is random.
        progress: show a bar.

    Returns:
        Of each kind tried, what was found within its largest bound; then the same, bound by bound,
        with what was found anew for the class that stands out.
    """
    with torch.no_grad():
        plain = logits(images)
    if plain.dim() != 2 or labels.max() >= plain.shape[1]:
        raise ValueError(
            f"model: expected logits (n, classes) with classes for labels up to {labels.max()}, "
            f"got {tuple(plain.shape)}"
        )
    ease = float(target_margins(plain, labels).mean())
    targets = torch.arange(plain.shape[1], device=images.device)
    parts = targets.split(max(1, BATCH // len(images)))
    known = kinds(images)
    reaches: list[Reach] = []
    total = len(known) * len(targets)
    with tqdm(total=total, desc="examine", unit="class", disable=not progress) as bar:
        for kind in known:
            first = kind.start(1, generator)
            found = []
            for part in parts:
                climb = Climb(logits, images, labels, kind, part, first)
                found.append(climb.reach(kind.bounds[0]))
                bar.update(len(part))
            triggers, flips, margins = (torch.cat(each) for each in zip(*found, strict=True))
            reach = Reach(kind.name, kind.unit, kind.bounds[0], triggers, flips, margins, ease)
            reaches.append(reach)
            if reach.outlying:
                top = targets[reach.top, None]
                start = triggers[reach.top, None].to(images)
                climb = Climb(logits, images, labels, kind, top, start)
                reaches += narrow(reach, climb, kind.bounds[1:])
                bar.update(total - bar.n)
                break
    return reaches


def narrow(widest: Reach, climb: Climb, bounds: tuple[float, ...]) -> list[Reach]:
    """The reach of the class that stands out, within smaller bounds."""
    reaches: list[Reach] = []
    place = torch.tensor([widest.top])
    for bound in bounds:
        triggers, flips, margins = climb.reach(bound)
        if margins[0] < KEPT * widest.margins[widest.top]:
            break
        reaches.append(
            replace(
                widest,
                bound=bound,
                triggers=widest.triggers.index_copy(0, place, triggers),
                flips=widest.flips.index_copy(0, place, flips),
                margins=widest.margins.index_copy(0, place, margins),
            )
        )
    return reaches


class Climb:
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
        self.logits, self.kind, self.plain = logits, kind, images
        self.count = len(targets)
        own = labels == targets[:, None]
        # Of each target images of other classes come first, as many as the luckiest target has.
        self.each = int((~own).sum(1).max())
        order = own.to(torch.int8).argsort(dim=1, stable=True)[:, : self.each]
        # Row i is an image under the trigger to `targets[i // each]`.
        self.images = images[order.flatten()]
        self.targets = targets.repeat_interleave(self.each)
        self.counts = (~own.gather(1, order)).to(images.dtype)
        self.triggers = first.expand(self.count, *first.shape[1:])

    def triggered(self, triggers: Tensor) -> Tensor:
        """The logits of all rows under triggers (targets,...)."""
        spread = triggers.repeat_interleave(self.each, dim=0)
        return self.logits(self.kind.apply(self.images, spread))

    def reach(self, bound: float) -> tuple[Tensor, Tensor, Tensor]:
        """Triggers found within a bound, the shares of images they flip, margins; on the CPU."""
        for _ in range(STEPS):
            self.triggers = self.triggers.detach().requires_grad_()
            losses = cross_entropy(self.triggered(self.triggers), self.targets, reduction="none")
            (grad,) = torch.autograd.grad(losses @ self.counts.flatten(), self.triggers)
            self.triggers = self.kind.step(self.triggers.detach(), grad, bound)
        with torch.no_grad():
            reached = target_margins(self.triggered(self.triggers), self.targets) > 0
            flips = self.mean(reached.to(self.counts))
        return self.triggers.detach().cpu(), flips.cpu(), self.grown().cpu()

    def grown(self) -> Tensor:
        """The margin of each trigger when it is grown as far as its kind allows, (targets,)."""
        limits = [self.kind.limits(trigger, self.plain) for trigger in self.triggers]
        least, most = (torch.stack(side) for side in zip(*limits, strict=True))

        def margins(triggers: Tensor) -> Tensor:
            return self.mean(target_margins(self.triggered(triggers), self.targets))

        grown = grow(margins, least, most)
        with torch.no_grad():
            return margins(grown)

    def mean(self, rows: Tensor) -> Tensor:
        """Over each target's images that are of other classes, (targets,)."""
        weighed = rows.view_as(self.counts) * self.counts
        return weighed.sum(1) / self.counts.sum(1).clamp(min=1)
