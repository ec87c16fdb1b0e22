"""What each epoch of a recipe does."""

from dataclasses import dataclass
from enum import Flag, auto

from awm_defense.awm.recipe import Recipe

PRESSURE = 9.0
"""What the weight β of losses under triggers is multiplied by once a backdoor has come back."""


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
        held: whether it has in this epoch or before: recovery is under grown triggers, too.
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
    held: bool
    start: int
    natural: bool
    weighs: bool
    searches_again: bool
    forgets: bool
    rate: float

    def weights(self, recipe: Recipe) -> tuple[float, float]:
        """Of the clean loss and of those under triggers; their sum is that of α and β."""
        assert recipe.alpha is not None and recipe.beta is not None
        beta = recipe.beta * (PRESSURE if self.held else 1.0)
        total = recipe.alpha + beta
        scale = (recipe.alpha + recipe.beta) / total if total else 1.0
        return recipe.alpha * scale, beta * scale


def plan(
    recipe: Recipe,
    number: int,
    *,
    growing: bool,
    alive: bool = False,
    natural: bool = True,
    before: Epoch | None = None,
) -> Epoch:
    """An epoch.

    Args:
        recipe: resolved.
        number: of the epoch, from 0.
        growing: whether there are grown triggers.
        alive: whether they lead to their class again.
        natural: whether natural steps can be trusted.
        before: the epoch before it; by default what is planned if the backdoor stays away.
    """
    assert recipe.mask_lr is not None
    if number and before is None:
        before = plan(recipe, number - 1, growing=growing, natural=natural)
    due = recipe.trigger_epochs is None or number < recipe.trigger_epochs
    back = alive and not (before is not None and before.held)
    held = alive or (before is not None and before.held)
    start = number if back else (0 if before is None else before.start)
    under = Under.DELTA
    if growing:
        recovering = Under.GROWN if held else Under.NOTHING
        under = Under.BOTH if due or back else recovering
    natural = natural and under is Under.BOTH and recipe.natural_step is not None
    step = recipe.natural_step if natural else None
    rate = recipe.mask_lr if step is None else recipe.mask_lr * step
    return Epoch(
        number=number,
        under=under,
        back=back,
        held=held,
        start=start,
        natural=natural,
        weighs=natural and number == 0,
        searches_again=Under.GROWN in under and number > 0 and recipe.search_again,
        forgets=before is not None and before.natural != natural,
        rate=rate * recipe.mask_lr_decay ** (number - start),
    )
