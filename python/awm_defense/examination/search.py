"""The search for the smallest universal triggers that lead to each class."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NoReturn

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from awm_defense.examination.condense import LAST, condense, shrinking, smallest
from awm_defense.examination.condense import STEPS as CONDENSING
from awm_defense.examination.margins import grow, target_margins
from awm_defense.examination.screen import MOST, Screening, screen
from awm_defense.examination.verdict import THRESHOLD, Radii, Reach, Verdict
from awm_defense.pixel_model import check_logits
from awm_defense.triggers import Family, Sparse, families
from awm_defense.triggers.family import STEPS

IMAGES = 10
"""How many of the images a search takes, at most."""
FIRST = 4
"""Images that are looked at first, and alone where by these no class comes near to standing out."""
BATCH = 256
"""Images that go through the network at a time."""

Logits = Callable[[Tensor], Tensor]


def pick_images(labels: Tensor) -> Tensor:
    """Indices of `IMAGES` images, the first of each class before the second of any."""
    turns = torch.zeros_like(labels)
    for label in labels.unique():
        same = labels == label
        turns[same] = torch.arange(int(same.sum()), device=labels.device)
    return turns.argsort(stable=True)[:IMAGES]


class Search:
    """Looks for the smallest universal triggers that lead to classes.

    Args:
        logits: the network, from images in pixel space.
        images: (n,c,h,w) in [0,1].
        labels: their classes, int64 (n,).
        generator: on the CPU, of what is random.
        batch: images that are worked on at a time, though at least those of one class.
        rough: the same network, less exactly and faster, for screening, condensing and the steps up
            to triggers; how far these flip images and grow is by `logits`. None: that one, too.
    """

    def __init__(
        self,
        logits: Logits,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        batch: int = BATCH,
        rough: Logits | None = None,
    ) -> None:
        self.logits, self.images, self.labels = logits, images, labels
        self.rough = logits if rough is None else rough
        self.generator, self.batch = generator, batch

    @cached_property
    def _plain(self) -> Tensor:
        with torch.no_grad():
            return check_logits(self.logits(self.images), self.labels)

    @cached_property
    def ease(self) -> float:
        """The margin of the images' own classes without a trigger, mean over images."""
        return float(target_margins(self._plain, self.labels).mean())

    @cached_property
    def screening(self) -> Screening | None:
        """Which classes are searched, where they are too many for all."""
        classes = self._plain.shape[1]
        if classes <= MOST:
            return None
        return screen(self.rough, self.images, self.labels, classes, self.generator)

    @cached_property
    def _parts(self) -> tuple[Tensor, ...]:
        """The classes that are searched, as many as are worked on at a time."""
        picked = self.screening
        classes = range(self._plain.shape[1]) if picked is None else picked.searched
        targets = torch.tensor(list(classes), device=self.images.device)
        return targets.split(max(1, self.batch // len(self.images)))

    def radii(self, *, progress: bool = False) -> Radii:
        """How small sparse triggers can be that lead to each class, of those that are searched."""
        family = Sparse(self.images)
        size = self.images[0].numel()
        bounds = shrinking(size, family.scaled(LAST), CONDENSING)
        generator = torch.Generator().manual_seed(self.generator.initial_seed())
        noise = torch.rand(self.images[:1].shape, generator=generator).to(self.images)
        climbs = self._climbs(family, 2 * noise - 1, IMAGES)
        total = len(bounds) * len(climbs)
        with tqdm(total=total, desc="condense", unit="step", disable=not progress) as bar:

            def path(climb: "_Climb") -> Iterator[tuple[float, Tensor, Tensor]]:
                for step in condense(climb.rough_margins, climb.triggers, family.step, bounds):
                    bar.update()
                    yield step

            found = [smallest(path(climb)) for climb in climbs]
        norms = torch.cat([each[0] for each in found]).cpu()
        triggers = torch.cat([each[1] for each in found]).cpu()
        margins = torch.cat([each[2] for each in found], dim=1).cpu()
        return Radii(norms, triggers, margins, self.ease, self.screening)

    def flips(self, radii: Radii) -> float:
        """The share of images of other classes that the smallest trigger sends to its class."""
        target = torch.cat(self._parts)[radii.top][None]
        trigger = radii.triggers[radii.top][None].to(self.images)
        return float(_Climb(self, Sparse(self.images), target, trigger, IMAGES).flips())

    def every_class(self, *, progress: bool = False) -> list[Reach]:
        """How strongly each class is reached, by each family of triggers within each of its bounds.

        Of more than `MOST` classes those are searched that a screening picks.

        In each family bounds are tried from large to small while a class stands out, and families
        until a class does by enough for a backdoor. Where no class comes near to that by the first
        images, the others are not asked. `progress` shows a bar.
        """
        known = families(self.images)
        # Up to each bound, and once more for the first look.
        steps = [2 * len(self._parts) * STEPS * (len(family.bounds) + 1) for family in known]
        reaches: list[Reach] = []
        with tqdm(total=sum(steps), desc="examine", unit="step", disable=not progress) as bar:
            for family, most in zip(known, steps, strict=True):
                end = bar.n + most
                reaches += self._family(family, bar)
                bar.update(end - bar.n)
                if any(reach.planted for reach in reaches):
                    bar.update(sum(steps) - bar.n)
                    break
        return reaches

    def _family(self, family: Family, bar: "tqdm[NoReturn]") -> list[Reach]:
        """What is found within each bound of a family that is tried."""
        first = family.start(1, self.generator)
        if len(self.images) > FIRST:
            few = self._climbs(family, first, FIRST)
            glance = self._reach(family, family.bounds[0], few, bar)
            if not glance.nearly:
                return [glance]
        reaches: list[Reach] = []
        climbs = self._climbs(family, first, IMAGES)
        for bound in family.bounds:
            reaches.append(self._reach(family, bound, climbs, bar))
            if not reaches[-1].outlying:
                break
        return reaches

    def one_class(self, target: int, family: Family) -> Tensor:
        """The trigger of one family, within its largest bound, that leads there; on the CPU."""
        return self._climbed(target, family).triggers[0].cpu()

    def second(self, verdict: Verdict, reaches: list[Reach]) -> Tensor | None:
        """A trigger apart from a verdict's that makes its class stand out as well, or None.

        A backdoor answers to several. One that loses its effect while the bounds shrink may share
        little with the planted one.

        Args:
            verdict: with a sparse trigger; the second one lies where that can't grow.
            reaches: what the verdict was made of: within the largest bound of sparse triggers, how
                strongly the usual class is reached.
        """
        forbidden = Sparse(self.images).farthest(verdict.trigger.to(self.images)) > 0
        family = Sparse(self.images, forbidden)
        climb = self._climbed(verdict.target, family)
        widest = next(reach for reach in reaches if reach.unit == family.unit)
        return climb.triggers[0].cpu() if float(climb.grown()) >= THRESHOLD * widest.usual else None

    def _reach(
        self, family: Family, bound: float, climbs: "list[_Climb]", bar: "tqdm[NoReturn]"
    ) -> Reach:
        flips, margins = [], []
        for climb in climbs:
            flips.append(climb.climb(bound))
            bar.update(STEPS)
        for climb in climbs:
            margins.append(climb.grown())
            bar.update(STEPS)
        return Reach(
            kind=family.kind,
            unit=family.unit,
            bound=bound,
            triggers=torch.cat([climb.triggers for climb in climbs]).detach().cpu(),
            flips=torch.cat(flips).cpu(),
            margins=torch.cat(margins).cpu(),
            ease=self.ease,
            screening=self.screening,
        )

    def _climbs(self, family: Family, first: Tensor, images: int) -> "list[_Climb]":
        """For all classes that are searched, on so many of the images."""
        return [_Climb(self, family, part, first, images) for part in self._parts]

    def _climbed(self, target: int, family: Family) -> "_Climb":
        targets = torch.tensor([target], device=self.images.device)
        climb = _Climb(self, family, targets, family.start(1, self.generator), IMAGES)
        climb.climb(family.bounds[0])
        return climb


class _Climb:
    """The search for the triggers to some of the classes."""

    def __init__(
        self, search: Search, family: Family, targets: Tensor, first: Tensor, most: int
    ) -> None:
        images, labels = search.images[:most], search.labels[:most]
        self.logits, self.rough, self.family = search.logits, search.rough, family
        self.count, self.each = len(targets), len(images)
        # Row i is an image under the trigger to `targets[i // each]`.
        self.images = images.repeat(self.count, 1, 1, 1)
        self.targets = targets.repeat_interleave(self.each)
        self.counts = (self.targets != labels.repeat(self.count)).to(images.dtype)
        self.triggers = first.repeat_interleave(self.count, dim=0)

    def triggered(self, triggers: Tensor, logits: Logits) -> Tensor:
        """The logits of all images under triggers (targets,...)."""
        spread = triggers.repeat_interleave(self.each, dim=0)
        return logits(self.family.apply(self.images, spread))

    def climb(self, bound: float) -> Tensor:
        """All steps within a bound; returns which share of images flips, (targets,)."""
        for _ in range(STEPS):
            self.triggers = self.triggers.detach().requires_grad_()
            found = self.triggered(self.triggers, self.rough)
            losses = cross_entropy(found, self.targets, reduction="none")
            (grad,) = torch.autograd.grad(losses @ self.counts, self.triggers)
            self.triggers = self.family.step(self.triggers.detach(), grad, bound)
        return self.flips()

    @torch.no_grad()
    def flips(self) -> Tensor:
        """Which share of images each trigger sends to its target, (targets,)."""
        reached = target_margins(self.triggered(self.triggers, self.logits), self.targets) > 0
        return self.mean(reached.to(self.counts))

    def grown(self) -> Tensor:
        """The margin of each trigger when it is grown as far as its family allows, (targets,)."""
        plain = self.images[: self.each]
        limits = [self.family.limits(trigger, plain) for trigger in self.triggers]
        least, most = (torch.stack(side) for side in zip(*limits, strict=True))

        grown = grow(self.rough_margins, least, most)
        with torch.no_grad():
            return self.margins(grown)

    def margins(self, triggers: Tensor) -> Tensor:
        """Of triggers (targets,...), each one's mean margin, (targets,)."""
        return self.mean(target_margins(self.triggered(triggers, self.logits), self.targets))

    def rough_margins(self, triggers: Tensor) -> Tensor:
        """The same, less exactly and faster."""
        return self.mean(target_margins(self.triggered(triggers, self.rough), self.targets))

    def mean(self, rows: Tensor) -> Tensor:
        """Over each target's images that are of other classes, (targets,)."""
        number = self.counts.view(self.count, -1).sum(1).clamp(min=1)
        return (rows * self.counts).view(self.count, -1).sum(1) / number
