"""Whether a network looks backdoored: is one class far easier to reach than all others?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

THRESHOLD = 4.5
"""Spreads above the median from which on a class counts as an outlier."""
FEWEST = 5
"""Classes below which there are too few to compare."""


@dataclass(frozen=True)
class Reach:
    """How far triggers of one kind, within one bound, lead to each class.

    Attributes:
        kind, unit: of the triggers, as `triggers.Kind` has them.
        bound: the largest norm they may have, in `unit`.
        triggers: the one found for each class, (classes, ...), parameters of the kind.
        margins: of each class, (classes,): how far its logit lies above the largest other one,
            mean over the images of other classes.
        flips: the share of those images that go to the class, (classes,).
        ease: the margin of the images' own classes without a trigger, a scale for `margins`.
    """

    kind: str
    unit: str
    bound: float
    triggers: Tensor
    margins: Tensor
    flips: Tensor
    ease: float

    @property
    def top(self) -> int:
        """The class with the largest margin."""
        return int(self.margins.argmax())

    @property
    def score(self) -> float:
        """By how many spreads the largest margin lies above the median.

        The spread is 1.4826 times the median absolute deviation, which is the standard deviation
        of normal values, or a tenth of `ease` where that is larger.
        """
        median = self.margins.median()
        spread = 1.4826 * float((self.margins - median).abs().median())
        return float(self.margins.max() - median) / max(spread, 0.1 * self.ease, 1e-6)


@dataclass(frozen=True, repr=False)
class Verdict:
    """What the search for small triggers says about a network.

    Attributes:
        backdoored: whether one class is reached far more easily than the others; None where
            there are fewer than five classes to compare.
        target: the class that is reached the most easily.
        kind: what its trigger does: images are "added to" or "warped".
        norm: the trigger's bound: the smallest tried within which the class stands out.
        unit: of `norm`: "L1" or "L2" of pixel values in [0, 1], or "pixels" of shift.
        score: how sure: by how many spreads the class lies above the median class, within the
            bound where it does the most. From 4.5 on, and if the trigger wins on average, the
            network counts as backdoored.
        flips: the share of the images of other classes that the trigger sends to `target`.
        trigger: its parameters, on the CPU: Δ (c,h,w), or shifts (2,4,4).
        margins: of each class, (classes,): its logit above the largest other one under its own
            trigger, mean over images.
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

    def __str__(self) -> str:
        reached = (
            f"class {self.target} is reached by images {self.kind} within {self.norm:.3g} "
            f"{self.unit} ({100 * self.flips:.0f} % of them), up to {self.score:.1f} spreads "
            "easier than the median class"
        )
        if self.backdoored is None:
            return f"can't tell, fewer than {FEWEST} classes: {reached}"
        return f"backdoored: {reached}" if self.backdoored else f"clean: at most, {reached}"

    __repr__ = __str__

    def facts(self) -> dict[str, Any]:
        """As JSON holds it, without the trigger."""
        return {
            "backdoored": self.backdoored,
            "target": self.target,
            "kind": self.kind,
            "norm": self.norm,
            "unit": self.unit,
            "score": self.score,
            "flips": self.flips,
            "margins": self.margins.tolist(),
        }


def judge(reaches: list[Reach]) -> Verdict:
    """The verdict on a network, from what was found within each bound (ascending in each kind)."""
    # A trigger that loses on average proves nothing, however far it lies above the others.
    outliers = [
        reach for reach in reaches if reach.score >= THRESHOLD and reach.margins[reach.top] > 0
    ]
    surest = max(outliers or reaches, key=lambda reach: reach.score)
    # The smallest bound within which the same sort of trigger makes the same class stand out.
    shown = next(
        reach
        for reach in (outliers or [surest])
        if (reach.unit, reach.top) == (surest.unit, surest.top)
    )
    return Verdict(
        backdoored=None if len(shown.margins) < FEWEST else bool(outliers),
        target=shown.top,
        kind=shown.kind,
        norm=shown.bound,
        unit=shown.unit,
        score=surest.score,
        flips=float(shown.flips[shown.top]),
        trigger=shown.triggers[shown.top].detach().clone(),
        margins=shown.margins,
    )
