"""What each epoch of a recipe does."""

from dataclasses import dataclass
from enum import Flag, auto

from awm_defense.awm.recipe import Recipe

PRESSURE, GAIN = 9.0, 1.5
"""What the weight β of losses under triggers is multiplied by once a backdoor has come back, and
again before each later epoch where it is not gone."""
AVERAGED = 4
"""Last epochs of a held run whose masks are averaged: there each still goes its own way."""


class Under(Flag):
    """What mask steps are under, besides clean images."""

    NOTHING = 0
    DELTA = auto()
    GROWN = auto()
    BOTH = DELTA | GROWN


@dataclass(frozen=True)
class Epoch:
    """One outer iteration (AWM paper, Algorithm 1).

    Attributes:
        number: from 0.
        under: what its mask steps are under.
        back: whether the backdoor has come back for the first time.
        pressure: what β is multiplied by; above 1 once it has: then the run is held.
        start: the epoch in which it has, else 0: there the rate is that of the recipe.
        natural: whether they go down the natural gradient.
        weighs: whether that is computed in this epoch.
        searches_again: whether grown triggers are sought anew in it.
        forgets: whether the optimiser starts afresh: its momentum is of other gradients.
        rate: of its mask steps.
    """

    number: int
    under: Under
    back: bool
    pressure: float
    start: int
    natural: bool
    weighs: bool
    searches_again: bool
    forgets: bool
    rate: float

    @property
    def held(self) -> bool:
        """Whether the backdoor has come back: recovery is under grown triggers, too."""
        return self.pressure > 1

    def averaged(self, recipe: Recipe) -> bool:
        """Whether the masks after it are among those that are averaged in the end."""
        return self.under is Under.GROWN and self.number >= recipe.epochs - AVERAGED

    def weights(self, recipe: Recipe) -> tuple[float, float]:
        """Of the clean loss and of those under triggers; their sum is that of α and β."""
        assert recipe.alpha is not None and recipe.beta is not None
        beta = recipe.beta * self.pressure
        total = recipe.alpha + beta
        scale = (recipe.alpha + recipe.beta) / total if total else 1.0
        return recipe.alpha * scale, beta * scale


def plan(
    recipe: Recipe, number: int, *, growing: bool, alive: bool = False, before: Epoch | None = None
) -> Epoch:
    """An epoch.

    Args:
        recipe: resolved.
        number: of the epoch, from 0.
        growing: whether there are grown triggers.
        alive: whether they lead to their class again.
        before: the epoch before it; by default what is planned if the backdoor stays away.
    """
    assert recipe.mask_lr is not None
    if number and before is None:
        before = plan(recipe, number - 1, growing=growing)
    due = recipe.trigger_epochs is None or number < recipe.trigger_epochs
    pressure = 1.0 if before is None else before.pressure
    back = alive and pressure == 1
    if alive:
        pressure *= PRESSURE if back else GAIN
    start = number if back else (0 if before is None else before.start)
    under = Under.DELTA
    if growing:
        recovering = Under.GROWN if pressure > 1 else Under.NOTHING
        under = Under.BOTH if due or back else recovering
    natural = under is Under.BOTH and recipe.natural_step is not None
    step = recipe.natural_step if natural else None
    rate = recipe.mask_lr if step is None else recipe.mask_lr * step
    return Epoch(
        number=number,
        under=under,
        back=back,
        pressure=pressure,
        start=start,
        natural=natural,
        weighs=natural and number == 0,
        searches_again=Under.GROWN in under and number > 0 and recipe.search_again,
        forgets=before is not None and before.natural != natural,
        rate=rate * recipe.mask_lr_decay ** (number - start),
    )
