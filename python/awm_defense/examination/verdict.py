"""Whether a network looks backdoored: is one class far easier to reach than all others?"""

from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from awm_defense.examination.screen import Screening
from awm_defense.triggers import Sparse

THRESHOLD = 2.0
"""How many times as strongly as the median class a planted one of ten is reached, at least."""
NARROW = 0.75
"""Share of the threshold from which a clean verdict is one by little."""
CLEAR = 2.5
"""How many times as large triggers other classes need, at least, where one is planted."""
FEWEST = 5
"""Classes below which there are too few to compare."""


@dataclass(frozen=True)
class Reach:
    """How far triggers of one family, found within one bound, lead to each class.

    Attributes:
        kind, unit: of the triggers, as `triggers.Family` has them.
        bound: the largest norm they may have, in `unit`.
        triggers: the one found for each class, (classes, ...), parameters of the family.
        flips: the share of the images of other classes that it sends there, (classes,).
        margins: of each class, (classes,), under its trigger grown as far as the family allows: how
            far its logit lies above the largest other one, mean over those images.
        ease: the margin of the images' own classes without a trigger, a scale for `margins`.
        screening: which classes these are, where they are not all.
    """

    kind: str
    unit: str
    bound: float
    triggers: Tensor
    flips: Tensor
    margins: Tensor
    ease: float
    screening: Screening | None = None

    @property
    def top(self) -> int:
        """The class with the largest margin, of those searched."""
        return int(self.margins.argmax())

    @property
    def classes(self) -> int:
        """How many the network has."""
        return class_count(self.margins, self.screening)

    @property
    def usual(self) -> float:
        """The median margin, or `ease` where that is larger."""
        return max(_median(self.margins, self.screening), self.ease)

    @property
    def recognised(self) -> bool:
        """Whether the network takes the images for what they are, by their mean margin."""
        return self.ease > 0

    @property
    def score(self) -> float:
        """The largest margin, in units of `usual`; 0 where the images are no scale for it."""
        return float(self.margins.max()) / self.usual if self.recognised else 0.0

    @property
    def outlying(self) -> bool:
        """Whether a class stands out."""
        return self.score >= THRESHOLD

    @property
    def planted(self) -> bool:
        """Whether it stands out by more than the largest of so many honest classes would."""
        return self.score >= threshold(self.classes)

    @property
    def nearly(self) -> bool:
        """Whether it stands out by so much or little less."""
        return self.score >= NARROW * threshold(self.classes)


@dataclass(frozen=True)
class Radii:
    """How small sparse triggers can be that lead to each class.

    Attributes:
        norms: the L1 norm of the smallest found for each, (classes,); infinite where there is none.
        triggers: these, (classes, c, h, w).
        margins: of each class, (steps, classes), as triggers become smaller: mean over images of
            other classes.
        ease: the margin of the images' own classes without a trigger.
        screening: which classes these are, where they are not all.
    """

    norms: Tensor
    triggers: Tensor
    margins: Tensor
    ease: float
    screening: Screening | None = None

    @property
    def top(self) -> int:
        """Which of those searched has the smallest trigger."""
        return int(self.norms.argmin())

    @property
    def target(self) -> int:
        """That class."""
        return _number(self.top, self.screening)

    @property
    def ratio(self) -> float:
        """How many times as large every other class's is, at least."""
        whole = self.triggers[0].numel() / 2
        first, second = self.norms.clamp(max=whole).topk(2, largest=False).values.tolist()
        return float(second / first)

    @property
    def alone(self) -> Tensor:
        """The margins where a class is led to alone the most surely; the last where none is."""
        first, second = self.margins.topk(2, dim=1).values.unbind(1)
        lone = torch.where(second <= 0, first, -torch.inf)
        return self.margins[int(lone.argmax()) if bool((lone > 0).any()) else -1]

    @property
    def planted(self) -> bool:
        """Whether one class is led to by far smaller triggers than all others, and as surely as
        images without a trigger are told."""
        if len(self.norms) < FEWEST or self.ease <= 0 or self.ratio < CLEAR:
            return False
        return float(self.alone[self.top]) >= self.ease


@dataclass(frozen=True, repr=False)
class Verdict:
    """What the search for small triggers says about a network.

    Attributes:
        backdoored: whether one class is reached far more easily than the others; None where
            there are fewer than five classes to compare, or where `recognised` is False.
        target: the class that is reached the most easily.
        kind: what its trigger does: images are "added to" or "warped".
        norm: the bound within which it was found: the smallest tried within which the class stands
            out, with the first family that makes it do so by three quarters of the threshold.
        unit: of `norm`: "L1" or "L2" of pixel values in [0, 1], or "pixels" of shift.
        score: how sure: the margin of `target` in units of the median class's, or of the margin
            that clean images have of their own class where that is larger, for the family and
            bound with which it is the largest. From `threshold` on the network counts as
            backdoored; a little below where `surest` says so, too.
        flips: the share of the images of other classes that the trigger sends to `target`.
        trigger: its parameters, on the CPU: Δ (c,h,w), or shifts (2,4,4).
        margins: of each class, (classes,), within `norm`: its logit above the largest other one
            under its own trigger, grown as far as its family allows, mean over images.
        second: another trigger that makes the class stand out, (c,h,w), on pixels into which
            `trigger` can't grow. Sought where that is a sparse one and not within the smallest
            bound; None where there is none.
        surest: of a network that would be clean by little, the class with the largest margin over
            all images. Where that is `target` and stands out by three quarters of the threshold,
            the network counts as backdoored. None elsewhere.
        surest_score: that margin, in the units of `score`.
        recognised: whether the network takes the images for their classes, by their mean margin.
            Where it doesn't, it was not made for them as they come, and there is no scale.
        screening: which classes were searched, where they are too many for all: `margins` are of
            `screening.searched`, and the median is that of `screening.compared`. None elsewhere.
        radii: how small triggers to each class can be, (classes,), in L1 norm, where that alone
            told: then `score` is how many times as large every other class's is, `trigger` is the
            smallest to `target`, and `margins` are those where it is led to alone. None elsewhere.
    """

    backdoored: bool | None
    target: int
    kind: str
    norm: float
    unit: str
    score: float
    flips: float
    trigger: Tensor
    margins: Tensor
    second: Tensor | None = None
    surest: int | None = None
    surest_score: float | None = None
    recognised: bool = True
    screening: Screening | None = None
    radii: Tensor | None = None

    @property
    def classes(self) -> int:
        """How many the network has."""
        return class_count(self.margins, self.screening)

    @property
    def threshold(self) -> float:
        """The score from which it counts as backdoored."""
        return CLEAR if self.radii is not None else threshold(self.classes)

    @property
    def median(self) -> float:
        """The margin of the median class, or of the median of those compared with."""
        return _median(self.margins, self.screening)

    @property
    def searched(self) -> Tensor:
        """The classes that `margins` are of, int64."""
        if self.screening is None:
            return torch.arange(len(self.margins))
        return torch.tensor(self.screening.searched)

    @property
    def narrow(self) -> bool:
        """Whether it is clean by little: so are benign networks, and large backdoored ones."""
        return self.backdoored is False and self.score >= NARROW * threshold(self.classes)

    def __str__(self) -> str:
        if not self.recognised:
            return (
                "can't tell: by its mean margin the network does not take the images for what they "
                "are; are mean and std, labels and data those that it was trained with?"
            )
        size = f"{self.norm:.3g}"
        warped = self.kind == "warped"
        change = f"a warp by {size} pixels" if warped else f"a trigger of {self.unit} norm {size}"
        if self.radii is not None:
            return (
                f"backdoored: {change} leads to class {self.target}, and every other class needs "
                f"one at least {self.score:.1f} times as large (from {CLEAR} on it counts as "
                f"backdoored){self._screened}"
            )
        least = threshold(self.classes)
        counts = f"from {least:.1f} on it counts as backdoored"
        if self.surest is not None:
            counts += (
                f", or from {NARROW * least:.1f} on where the class stands out over all images, "
                f"where class {self.surest} does so the most, {self.surest_score:.1f} times"
            )
        reached = (
            f"class {self.target} is reached {self.score:.1f} times as strongly as the median "
            f"class, by triggers grown to full strength ({counts}); before growing, {change} sends "
            f"{100 * self.flips:.0f} % of other images there{self._screened}"
        )
        if self.backdoored is None:
            return f"can't tell, fewer than {FEWEST} classes: {reached}"
        found = "backdoored" if self.backdoored else "clean"
        return f"{found}{', but by little' if self.narrow else ''}: {reached}"

    __repr__ = __str__

    @property
    def _screened(self) -> str:
        return "" if self.screening is None else f"; {self.screening}"

    def facts(self) -> dict[str, Any]:
        """As JSON holds it: without the triggers, but for whether there is a second."""
        return {
            "backdoored": self.backdoored,
            "target": self.target,
            "kind": self.kind,
            "norm": self.norm,
            "unit": self.unit,
            "score": self.score,
            "threshold": self.threshold,
            "recognised": self.recognised,
            "flips": self.flips,
            "margins": self.margins.tolist(),
            "second": self.second is not None,
            "surest": self.surest,
            "surest_score": self.surest_score,
            "radii": None if self.radii is None else self.radii.tolist(),
            "screening": None if self.screening is None else asdict(self.screening),
        }


def class_count(margins: Tensor, screening: Screening | None) -> int:
    """How many classes there are, of which some have margins."""
    return len(margins) if screening is None else screening.classes


def _median(margins: Tensor, screening: Screening | None) -> float:
    """Of all classes or, where suspects were picked, of those that they are compared with."""
    if screening is not None:
        margins = margins[len(screening.suspects) :]
    return float(margins.median())


def threshold(classes: int) -> float:
    """The score from which a network counts as backdoored: 2 for ten classes and fewer.

    The largest of many honest margins is larger than that of ten. They are taken as log-normal: on
    that scale the largest of n lies near the quantile (n - 3/8) / (n + 1/4) (Blom, 1958).
    """
    ten, largest = (NormalDist().inv_cdf((n - 3 / 8) / (n + 1 / 4)) for n in (10, max(10, classes)))
    return float(THRESHOLD ** (largest / ten))


def planted(radii: Radii, flips: float) -> Verdict:
    """The verdict on a network where sizes of triggers tell.

    Args:
        radii: of which one class stands out.
        flips: the share of the images of other classes that its smallest trigger sends there.
    """
    return Verdict(
        backdoored=True,
        target=radii.target,
        kind=Sparse.kind,
        norm=float(radii.norms[radii.top]),
        unit=Sparse.unit,
        score=radii.ratio,
        flips=flips,
        trigger=radii.triggers[radii.top].clone(),
        margins=radii.alone,
        screening=radii.screening,
        radii=radii.norms.clamp(max=radii.triggers[0].numel() / 2),
    )


def judge(reaches: list[Reach]) -> Verdict:
    """The verdict on a network, from what was found within each bound, families one by one."""
    surest = max(reaches, key=lambda reach: reach.score)
    # The sorts that are tried later are fainter, and lead elsewhere than to what was planted: if
    # an earlier one makes the class nearly stand out, its trigger is the better one to erase.
    first = next((reach for reach in reaches if reach.top == surest.top and reach.nearly), surest)
    # The smallest bound within which that sort of trigger makes the class stand out.
    same = [reach for reach in reaches if (reach.unit, reach.top) == (first.unit, surest.top)]
    shown = ([reach for reach in same if reach.outlying] or [first])[-1]
    comparable = surest.recognised and shown.classes >= FEWEST
    return Verdict(
        backdoored=surest.planted if comparable else None,
        target=_number(shown.top, shown.screening),
        kind=shown.kind,
        norm=shown.bound,
        unit=shown.unit,
        score=surest.score,
        flips=float(shown.flips[shown.top]),
        trigger=shown.triggers[shown.top].clone(),
        margins=shown.margins,
        recognised=surest.recognised,
        screening=shown.screening,
    )


def confirm(reaches: list[Reach], over_all: Tensor) -> Verdict:
    """The verdict where it is clean by little, once margins over all images are known.

    A planted class is answered to so surely that it stands out in these, too.

    Args:
        reaches: what was found within each bound, as `judge` takes it.
        over_all: the largest margin of each class searched over all images, (classes,).
    """
    verdict = judge(reaches)
    usual = max(_median(over_all, verdict.screening), reaches[0].ease)
    surest = _number(int(over_all.argmax()), verdict.screening)
    score = float(over_all.max()) / usual
    sure = surest == verdict.target and score >= NARROW * threshold(verdict.classes)
    return replace(verdict, backdoored=sure, surest=surest, surest_score=score)


def _number(index: int, screening: Screening | None) -> int:
    """The class of that index among those searched."""
    return index if screening is None else screening.searched[index]
