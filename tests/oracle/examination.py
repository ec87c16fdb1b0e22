"""Is the network backdoored, and toward which class? (docs/verdict.md)

For each class the smallest trigger is sought, and grown. A planted class is reached far more
strongly than any other. Where that does not tell, sizes may: triggers are condensed from noise, and
one class alone may be led to by very small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import NormalDist

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from .families import FULL, STEPS, Family, Sparse, families

STANDS_OUT = 2.0
"""A class stands out that is reached so many times as strongly as the median class."""
NEARLY = 0.75
"""The share of a threshold that counts as nearly reaching it."""
SMALLER = 2.5
"""So many times as small as all others is the trigger to a class that is planted for sure."""
GLANCE = 4
"""Images looked at first; the others only where by these a class nearly tells."""


@dataclass
class Probe:
    """A network, from pixels to logits, and the clean images that triggers are sought on."""

    logits: Callable[[Tensor], Tensor]
    images: Tensor
    labels: Tensor

    def glance(self) -> Probe | None:
        """The same of the first images, where there are more."""
        if len(self.images) <= GLANCE:
            return None
        return Probe(self.logits, self.images[:GLANCE], self.labels[:GLANCE])

    def ease(self) -> float:
        """The mean margin of the images' own classes: a scale for the margins of triggers."""
        return float(margin(self.logits(self.images), self.labels).mean().detach())

    def margins(self, target: int, family: Family, trigger: Tensor) -> Tensor:
        """The margin of `target` on each image of another class, under a trigger."""
        others = self.images[self.labels != target]
        return margin(self.logits(family.apply(others, trigger)), target)

    def seek(self, target: int, family: Family, trigger: Tensor, bound: float) -> Tensor:
        """A trigger to a class within a bound, from another one on."""
        others = self.images[self.labels != target]
        targets = torch.full((len(others),), target)
        for _ in range(STEPS):
            trigger = trigger.detach().requires_grad_()
            loss = cross_entropy(self.logits(family.apply(others, trigger)), targets)
            (grad,) = torch.autograd.grad(loss, trigger)
            trigger = family.step(trigger.detach(), grad, bound)
        return trigger

    def grow(
        self, target: int, family: Family, least: Tensor, most: Tensor, enough: float = torch.inf
    ) -> Tensor:
        """A trigger grown by sign steps up its margin until that is enough, within limits."""
        trigger = torch.zeros_like(most)
        for _ in range(STEPS):
            trigger = trigger.detach().requires_grad_()
            reached = self.margins(target, family, trigger).mean()
            if reached >= enough:
                break
            (grad,) = torch.autograd.grad(reached, trigger)
            trigger = (trigger + (most - least) / STEPS * grad.sign()).clamp(least, most)
        return trigger.detach()

    def condense(
        self, target: int, family: Family, noise: Tensor, last: float, steps: int
    ) -> Iterator[tuple[float, Tensor, float]]:
        """Bounds, triggers and their mean margins: noise climbs that within a bound that shrinks.

        The bound goes from half of all elements to the last one, in equal ratios.
        """
        first, trigger = noise.numel() / 2, noise
        for step in range(steps):
            bound = first * (last / first) ** (step / (steps - 1))
            trigger = trigger.detach().requires_grad_()
            (grad,) = torch.autograd.grad(-self.margins(target, family, trigger).mean(), trigger)
            trigger = family.step(trigger.detach(), grad, bound)
            reached = self.margins(target, family, trigger).mean()
            yield bound, trigger, float(reached.detach())

    def full_margin(self, target: int, family: Family, found: Tensor) -> Tensor:
        """The mean margin of a class under a found trigger grown to its limits."""
        grown = self.grow(target, family, *family.limits(found, self.images))
        return self.margins(target, family, grown).mean().detach()


@dataclass
class Reach:
    """What triggers of one family do within one bound: one found for each class."""

    probe: Probe
    family: Family
    bound: float
    triggers: list[Tensor]
    margins: Tensor
    ease: float

    def __post_init__(self) -> None:
        self.top = int(self.margins.argmax())
        # Triggers say nothing where the network doesn't know the images by themselves.
        self.score = in_usual(self.margins, self.ease) if self.ease > 0 else 0.0


@dataclass
class Verdict:
    """What is found; the names are those of `awm_defense.Verdict`."""

    backdoored: bool | None
    target: int
    unit: str
    norm: float
    score: float
    flips: float
    trigger: Tensor
    margins: Tensor
    second: Tensor | None = None
    surest: int | None = None
    surest_score: float | None = None
    radii: Tensor | None = None


def examine(
    logits: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, seed: int
) -> Verdict:
    """The verdict on a network."""
    chosen = choose(labels)
    probe = Probe(logits, images[chosen], labels[chosen])
    verdict, by_size = judge_strengths(probe, seed), judge_sizes(probe, seed)
    # A trigger that leads there from nothing is better to know than one from noise.
    same = by_size is not None and verdict.backdoored and verdict.target == by_size.target
    return verdict if by_size is None or same else by_size


def judge_strengths(probe: Probe, seed: int) -> Verdict:
    """The verdict by how strongly each class is reached."""
    generator = Generator().manual_seed(seed)
    reaches = search(probe, generator)
    verdict = judge(reaches)
    limit = NEARLY * threshold(len(verdict.margins))
    if verdict.backdoored is False and verdict.score >= limit:
        # The second question: does the same class stand out over any image whatever?
        margins = largest_margins(probe, len(verdict.margins), generator)
        surest, score = int(margins.argmax()), in_usual(margins, probe.ease())
        sure = surest == verdict.target and score >= limit
        return replace(verdict, backdoored=sure, surest=surest, surest_score=score)
    sparse = Sparse(probe.images)
    if verdict.backdoored and verdict.unit == "L1" and verdict.norm > sparse.bounds[-1]:
        # It ceased to stand out as bounds shrank: there may be another, where this can't grow.
        apart = Sparse(probe.images, forbidden=sparse.farthest(verdict.trigger) > 0)
        second = probe.seek(verdict.target, apart, apart.start(generator), apart.bounds[0])
        usual = next(usually(r.margins, r.ease) for r in reaches if r.family.unit == "L1")
        if probe.full_margin(verdict.target, apart, second) >= STANDS_OUT * usual:
            return replace(verdict, second=second)
    return verdict


def judge_sizes(probe: Probe, seed: int) -> Verdict | None:
    """The verdict by the sizes of the smallest sparse triggers to each class; None without one."""
    ease, classes = probe.ease(), probe.logits(probe.images).shape[1]
    family, size = Sparse(probe.images), probe.images[0].numel()
    noise = torch.rand(probe.images[0].shape, generator=Generator().manual_seed(seed))
    given = family, 2 * noise.double() - 1, 2 * size / FULL, 60
    paths = [list(probe.condense(target, *given)) for target in range(classes)]
    # The last that leads to a class is the smallest. One never found is as large as can be.
    led = [[step for step in path if step[2] > 0] for path in paths]
    radii = [found[-1][0] if found else size / 2 for found in led]
    smallest, following = sorted(radii)[:2]
    if classes < 5 or ease <= 0 or following < SMALLER * smallest:
        return None
    target = radii.index(smallest)
    # It has to be led to as surely as clean images are to their own while no other class is.
    steps = [[margin for _, _, margin in step] for step in zip(*paths, strict=True)]
    alone = [margins for margins in steps if sum(margin > 0 for margin in margins) == 1]
    surest = max(alone, key=max) if alone else steps[-1]
    if surest[target] < ease:
        return None
    trigger = led[target][-1][1]
    flips = probe.margins(target, family, trigger) > 0
    return Verdict(
        backdoored=True,
        target=target,
        unit=family.unit,
        norm=smallest,
        score=following / smallest,
        flips=float(flips.double().mean()),
        trigger=trigger,
        margins=torch.tensor(surest, dtype=torch.float64),
        radii=torch.tensor(radii, dtype=torch.float64),
    )


def choose(labels: Tensor) -> Tensor:
    """Indices of ten images: the first of each class, then the second of each, and so on."""
    before = [int((labels[:i] == label).sum()) for i, label in enumerate(labels)]
    return torch.tensor(sorted(range(len(labels)), key=before.__getitem__)[:10])


def search(probe: Probe, generator: Generator) -> list[Reach]:
    """Family by family until a class looks planted; smaller bounds while one stands out."""
    ease, classes = probe.ease(), probe.logits(probe.images).shape[1]
    reaches: list[Reach] = []
    for family in families(probe.images):
        first = [family.start(generator)] * classes
        few = probe.glance()
        if few is not None:
            glance = reach(few, family, family.bounds[0], first, ease)
            if glance.score < NEARLY * threshold(classes):
                reaches.append(glance)
                continue
        triggers = first
        for bound in family.bounds:
            reaches.append(reach(probe, family, bound, triggers, ease))
            triggers = reaches[-1].triggers
            if reaches[-1].score < STANDS_OUT:
                break
        if any(reach.score >= threshold(classes) for reach in reaches):
            break
    return reaches


def reach(probe: Probe, family: Family, bound: float, triggers: list[Tensor], ease: float) -> Reach:
    """What is found within a bound, from triggers to each class on."""
    found = [probe.seek(c, family, t, bound) for c, t in enumerate(triggers)]
    margins = [probe.full_margin(c, family, t) for c, t in enumerate(found)]
    return Reach(probe, family, bound, found, torch.stack(margins), ease)


def judge(reaches: list[Reach]) -> Verdict:
    """The class with the highest score, and the smallest trigger that makes it stand out."""
    surest = max(reaches, key=lambda reach: reach.score)
    limit = threshold(len(surest.margins))
    # Of families that make it nearly stand out the first: later ones lead elsewhere than planted.
    near = [r for r in reaches if r.top == surest.top and r.score >= NEARLY * limit]
    first = (near or [surest])[0]
    same = [r for r in reaches if r.family is first.family and r.top == surest.top]
    shown = ([r for r in same if r.score >= STANDS_OUT] or [first])[-1]
    # Fewer than five classes are too few to compare.
    comparable = surest.ease > 0 and len(surest.margins) >= 5
    trigger = shown.triggers[shown.top]
    flips = shown.probe.margins(shown.top, shown.family, trigger) > 0
    return Verdict(
        backdoored=surest.score >= limit if comparable else None,
        target=shown.top,
        unit=shown.family.unit,
        norm=shown.bound,
        score=surest.score,
        flips=float(flips.double().mean()),
        trigger=trigger,
        margins=shown.margins,
    )


def usually(margins: Tensor, ease: float) -> float:
    """The median class's margin, or that of clean images' own classes where it is larger."""
    return max(float(margins.median()), ease)


def in_usual(margins: Tensor, ease: float) -> float:
    """The largest margin in units of the usual one."""
    return float(margins.max()) / usually(margins, ease)


def threshold(classes: int) -> float:
    """The score of a planted class: 2 for up to ten classes, more as there are more.

    Honest margins are taken as log-normal; the largest of n lies near (n − 3/8) / (n + 1/4).
    """
    ten, most = (NormalDist().inv_cdf((n - 3 / 8) / (n + 1 / 4)) for n in (10, max(10, classes)))
    return float(STANDS_OUT ** (most / ten))


def margin(logits: Tensor, targets: Tensor | int) -> Tensor:
    """By how much each row's target lies above the largest other class."""
    wanted = torch.zeros_like(logits, dtype=torch.bool)
    wanted[torch.arange(len(logits)), targets] = True
    return logits[wanted] - logits.masked_fill(wanted, -torch.inf).amax(1)


def largest_margins(probe: Probe, classes: int, generator: Generator) -> Tensor:
    """Each class's largest margin over all images: 80 steps of Adam from eight of noise."""
    noise = torch.rand(8, *probe.images.shape[1:], generator=generator).double()
    found = []
    for target in range(classes):
        tried = noise.clone().requires_grad_()
        adam = torch.optim.Adam([tried], lr=0.05, maximize=True)
        for _ in range(80):
            (tried.grad,) = torch.autograd.grad(margin(probe.logits(tried), target).sum(), tried)
            adam.step()
            with torch.no_grad():
                tried.clamp_(0, 1)
        found.append(margin(probe.logits(tried), target).max().detach())
    return torch.stack(found)
