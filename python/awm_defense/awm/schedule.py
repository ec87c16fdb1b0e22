"""What each epoch of a recipe does."""

from dataclasses import dataclass
from enum import Enum, auto

from awm_defense.awm.recipe import Recipe


class Under(Enum):
    """What mask steps are under, besides clean images."""

    DELTA = auto()
    DELTA_AND_GROWN = auto()
    NOTHING = auto()


@dataclass(frozen=True)
class Epoch:
    """One outer iteration (AWM paper, Algorithm 1).

    Attributes:
        number: from 0.
        under: what its mask steps are under.
        natural: whether they go down the natural gradient.
        weighs: whether that is computed in this epoch.
        searches_again: whether grown triggers are sought anew in it.
        forgets: whether the optimiser starts afresh: its momentum is of other gradients.
        rate: of its mask steps.
    """

    number: int
    under: Under
    natural: bool
    weighs: bool
    searches_again: bool
    forgets: bool
    rate: float


def plan(recipe: Recipe, number: int, *, growing: bool) -> Epoch:
    """An epoch of a resolved recipe; `growing` says whether there are grown triggers."""
    assert recipe.mask_lr is not None
    under = _under(recipe, number, growing)
    natural = _is_natural(recipe, under)
    step = recipe.natural_step if natural else None
    rate = recipe.mask_lr if step is None else recipe.mask_lr * step
    return Epoch(
        number=number,
        under=under,
        natural=natural,
        weighs=natural and number == 0,
        searches_again=under is Under.DELTA_AND_GROWN and number > 0 and recipe.search_again,
        forgets=number > 0
        and not natural
        and _is_natural(recipe, _under(recipe, number - 1, growing)),
        rate=rate * recipe.mask_lr_decay**number,
    )


def _under(recipe: Recipe, number: int, growing: bool) -> Under:
    if not growing:
        return Under.DELTA
    if recipe.trigger_epochs is None or number < recipe.trigger_epochs:
        return Under.DELTA_AND_GROWN
    return Under.NOTHING


def _is_natural(recipe: Recipe, under: Under) -> bool:
    return under is Under.DELTA_AND_GROWN and recipe.natural_step is not None
