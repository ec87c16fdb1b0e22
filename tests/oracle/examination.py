"""Is the network backdoored, and toward which class? (docs/verdict.md)

A class that was planted is reached far more strongly than any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist

import torch
from oracle.families import STEPS, Family, Sparse, families
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

Logits = Callable[[Tensor], Tensor]

STANDS_OUT = 2.0
"""A class stands out that is reached so many times as strongly as the median class."""
NEARLY = 0.75
FEWEST_CLASSES = 5
"""With fewer there is nothing to compare with."""


@dataclass
class Reach:
    """How strongly each class is reached by triggers of one family within one bound."""

    family: Family
    bound: float
    triggers: list[Tensor]
    flips: Tensor
    margins: Tensor
    ease: float

    @property
    def top(self) -> int:
        return int(self.margins.argmax())

    @property
    def usual(self) -> float:
        """The median class's margin, or that of clean images' own classes where it is larger."""
        return max(float(self.margins.median()), self.ease)

    @property
    def score(self) -> float:
        return float(self.margins.max()) / self.usual if self.ease > 0 else 0.0


@dataclass
class Verdict:
    """What came out; the names are those of `awm_defense.Verdict`."""

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


def examine(logits: Logits, images: Tensor, labels: Tensor, seed: int) -> Verdict:
    """The verdict on a network, from at most ten of the images."""
    generator = Generator().manual_seed(seed)
    chosen = choose(labels)
    images, labels = images[chosen], labels[chosen]
    reaches = search(logits, images, labels, generator)
    verdict = judge(reaches)
    limit = threshold(len(verdict.margins))
    if verdict.backdoored is False and verdict.score >= NEARLY * limit:
        # The second question: does the class stand out over any image whatever?
        margins = largest_margins(logits, images, len(verdict.margins), generator)
        score = float(margins.max()) / max(float(margins.median()), reaches[0].ease)
        surest = int(margins.argmax())
        sure = surest == verdict.target and score >= NEARLY * limit
        return replace(verdict, backdoored=sure, surest=surest, surest_score=score)
    sparse = Sparse(images)
    if verdict.backdoored and verdict.unit == "L1" and verdict.norm > sparse.bounds[-1]:
        # It stopped standing out as bounds shrank, so there may be another, where it can't grow.
        other = Sparse(images, forbidden=sparse.farthest(verdict.trigger) > 0)
        second = seek(logits, images, labels, verdict.target, other, generator)
        usual = next(reach.usual for reach in reaches if reach.family.unit == "L1")
        if full_margin(logits, images, labels, verdict.target, other, second) >= STANDS_OUT * usual:
            verdict.second = second
    return verdict


def choose(labels: Tensor) -> Tensor:
    """Indices of ten images: the first of each class, then the second of each, and so on."""
    seen = [int((labels[:i] == label).sum()) for i, label in enumerate(labels)]
    return torch.tensor(sorted(range(len(labels)), key=seen.__getitem__)[:10])


def search(logits: Logits, images: Tensor, labels: Tensor, generator: Generator) -> list[Reach]:
    """Family by family until one class looks planted; smaller bounds while one stands out."""
    plain = logits(images).detach()
    ease = float(margin(plain, labels).mean())
    classes = plain.shape[1]
    reaches = []
    for family in families(images):
        triggers = [family.start(generator)] * classes
        for bound in family.bounds:
            triggers = [
                climb(logits, images, labels, target, family, trigger, bound)
                for target, trigger in enumerate(triggers)
            ]
            flips, margins = [], []
            for target, trigger in enumerate(triggers):
                under = logits(family.apply(images[labels != target], trigger))
                flips.append((margin(under, target) > 0).double().mean())
                margins.append(full_margin(logits, images, labels, target, family, trigger))
            reach = Reach(family, bound, triggers, torch.stack(flips), torch.stack(margins), ease)
            reaches.append(reach)
            if reach.score < STANDS_OUT:
                break
        if any(reach.score >= threshold(classes) for reach in reaches):
            break
    return reaches


def judge(reaches: list[Reach]) -> Verdict:
    """The class with the highest score, and the smallest trigger that makes it stand out."""
    surest = max(reaches, key=lambda reach: reach.score)
    limit = threshold(len(surest.margins))
    # Families that come later lead elsewhere than to what was planted.
    near = [r for r in reaches if r.top == surest.top and r.score >= NEARLY * limit]
    first = (near or [surest])[0]
    same = [r for r in reaches if r.family is first.family and r.top == surest.top]
    shown = ([r for r in same if r.score >= STANDS_OUT] or [first])[-1]
    comparable = surest.ease > 0 and len(surest.margins) >= FEWEST_CLASSES
    return Verdict(
        backdoored=surest.score >= limit if comparable else None,
        target=shown.top,
        unit=shown.family.unit,
        norm=shown.bound,
        score=surest.score,
        flips=float(shown.flips[shown.top]),
        trigger=shown.triggers[shown.top],
        margins=shown.margins,
    )


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


def climb(
    logits: Logits,
    images: Tensor,
    labels: Tensor,
    target: int,
    family: Family,
    trigger: Tensor,
    bound: float,
) -> Tensor:
    """The trigger after all steps toward a class within a bound, on images of other classes."""
    others = images[labels != target]
    targets = torch.full((len(others),), target)
    for _ in range(STEPS):
        trigger = trigger.detach().requires_grad_()
        loss = cross_entropy(logits(family.apply(others, trigger)), targets)
        (slope,) = torch.autograd.grad(loss, trigger)
        trigger = family.step(trigger.detach(), slope, bound)
    return trigger


def seek(
    logits: Logits,
    images: Tensor,
    labels: Tensor,
    target: int,
    family: Family,
    generator: Generator,
) -> Tensor:
    """The trigger of a family to one class, within the family's largest bound."""
    start = family.start(generator)
    return climb(logits, images, labels, target, family, start, family.bounds[0])


def grow(
    logits: Logits,
    others: Tensor,
    target: int,
    family: Family,
    limits: tuple[Tensor, Tensor],
    enough: float = float("inf"),
) -> Tensor:
    """A trigger grown from nothing by sign steps up its margin, until that is `enough`.

    The limits are reached in `STEPS` steps from one to the other.
    """
    least, most = limits
    trigger = torch.zeros_like(most)
    for _ in range(STEPS):
        trigger.requires_grad_()
        reached = margin(logits(family.apply(others, trigger)), target).mean()
        if reached >= enough:
            break
        (slope,) = torch.autograd.grad(reached, trigger)
        trigger = trigger.detach() + (most - least) / STEPS * slope.sign()
        trigger = trigger.clamp(least, most)
    return trigger.detach()


def full_margin(
    logits: Logits, images: Tensor, labels: Tensor, target: int, family: Family, found: Tensor
) -> Tensor:
    """The mean margin of a class under a found trigger that has grown to its limits."""
    others = images[labels != target]
    grown = grow(logits, others, target, family, family.limits(found, images))
    return margin(logits(family.apply(others, grown)), target).mean().detach()


def largest_margins(
    logits: Logits, images: Tensor, classes: int, generator: Generator
) -> Tensor:
    """Each class's largest margin over all images: 80 steps of Adam from eight of noise."""
    noise = torch.rand(8, *images.shape[1:], generator=generator).double()
    found = []
    for target in range(classes):
        tried = noise.clone().requires_grad_()
        adam = torch.optim.Adam([tried], lr=0.05, maximize=True)
        for _ in range(80):
            adam.zero_grad()
            margin(logits(tried), target).sum().backward()
            adam.step()
            with torch.no_grad():
                tried.clamp_(0, 1)
        found.append(margin(logits(tried), target).max().detach())
    return torch.stack(found)
