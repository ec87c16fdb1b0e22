"""What each epoch does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from awm_defense import Recipe, get_recipe
from awm_defense.awm.schedule import GAIN, PRESSURE, Epoch, Under, plan

RECIPE = replace(get_recipe("default"), mask_lr=0.1, alpha=0.9, beta=0.1)
ON, OFF = True, False


def epochs(alive: list[bool], recipe: Recipe = RECIPE, *, growing: bool = True) -> list[Epoch]:
    """Each planned after the one before it."""
    found: list[Epoch] = []
    for number, back in enumerate(alive):
        before = found[-1] if found else None
        found.append(plan(recipe, number, growing=growing, alive=back, before=before))
    return found


def test_without_grown_triggers_all_epochs_are_under_delta() -> None:
    for epoch in epochs([OFF] * 4, growing=False):
        assert epoch.under is Under.DELTA
        assert not (
            epoch.back or epoch.held or epoch.natural or epoch.searches_again or epoch.forgets
        )
        assert epoch.rate == pytest.approx(0.1 * 0.8**epoch.number)


def test_two_are_under_triggers_and_the_others_on_clean_images() -> None:
    found = epochs([OFF] * 4)
    assert [epoch.under for epoch in found] == [Under.BOTH] * 2 + [Under.NOTHING] * 2
    assert [epoch.natural for epoch in found] == [ON, ON, OFF, OFF]
    assert [epoch.weighs for epoch in found] == [ON, OFF, OFF, OFF]
    assert [epoch.searches_again for epoch in found] == [OFF, ON, OFF, OFF]
    # Momentum of natural steps is of no use to Adam.
    assert [epoch.forgets for epoch in found] == [OFF, OFF, ON, OFF]
    assert [epoch.rate for epoch in found] == pytest.approx([0.05, 0.04, 0.064, 0.0512])
    assert not any(epoch.back or epoch.held for epoch in found)
    # So they are where nothing is known of the epochs before.
    assert [plan(RECIPE, number, growing=True) for number in range(4)] == found


def test_recovery_is_held_once_the_backdoor_is_back() -> None:
    """The first time an epoch is under both; whatever happens later, it is held from then on."""
    found = epochs([OFF, OFF, OFF, ON, OFF, OFF, ON, OFF])
    expected = [Under.BOTH, Under.BOTH, Under.NOTHING, Under.BOTH, *[Under.GROWN] * 4]
    assert [epoch.under for epoch in found] == expected
    assert [epoch.back for epoch in found] == [OFF, OFF, OFF, ON, *[OFF] * 4]
    assert [epoch.held for epoch in found] == [OFF] * 3 + [ON] * 5
    assert [epoch.natural for epoch in found] == [ON, ON, OFF, ON, *[OFF] * 4]
    assert [epoch.forgets for epoch in found] == [OFF, OFF, ON, ON, ON, *[OFF] * 3]
    assert [epoch.searches_again for epoch in found] == [OFF, ON, OFF, *[ON] * 5]
    # It starts at the rate of the recipe again.
    rates = [0.05, 0.04, 0.064, 0.05, *(0.1 * 0.8**after for after in range(1, 5))]
    assert [epoch.rate for epoch in found] == pytest.approx(rates)
    # What a mask is worth is found out once.
    assert [epoch.number for epoch in found if epoch.weighs] == [0]


def test_it_may_be_back_at_once() -> None:
    found = epochs([OFF, OFF, ON, ON])
    assert [epoch.under for epoch in found] == [Under.BOTH] * 3 + [Under.GROWN]
    assert [epoch.back for epoch in found] == [OFF, OFF, ON, OFF]
    assert [epoch.held for epoch in found] == [OFF, OFF, ON, ON]
    assert [epoch.forgets for epoch in found] == [OFF, OFF, OFF, ON]


def test_options_of_the_recipe_hold_in_held_epochs_too() -> None:
    alive = [OFF, ON, OFF]
    found = epochs(alive, replace(RECIPE, trigger_epochs=1, search_again=False, natural_step=None))
    assert [epoch.under for epoch in found] == [Under.BOTH, Under.BOTH, Under.GROWN]
    for epoch in found:
        assert not (epoch.natural or epoch.weighs or epoch.searches_again or epoch.forgets)
    forever = epochs([OFF] * 4, replace(RECIPE, trigger_epochs=None))
    assert all(epoch.under is Under.BOTH and not epoch.held for epoch in forever)


def test_held_epochs_weigh_triggers_more() -> None:
    plain, held = epochs([OFF, ON], replace(RECIPE, trigger_epochs=1))
    assert plain.weights(RECIPE) == (0.9, 0.1)
    # 0.9 and 9 times 0.1, of the same sum.
    assert (plain.pressure, held.pressure) == (1, PRESSURE) == (1, 9)
    assert held.weights(RECIPE) == pytest.approx((0.5, 0.5))
    other = replace(RECIPE, alpha=1.0, beta=1.0)
    assert held.weights(other) == pytest.approx((0.2, 1.8))
    for alpha, beta in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0)):
        one = replace(RECIPE, alpha=alpha, beta=beta)
        assert held.weights(one) == pytest.approx((alpha, beta))


def test_what_does_not_go_weighs_more_and_more() -> None:
    found = epochs([OFF, OFF, ON, OFF, ON, ON, OFF])
    assert GAIN == 1.5
    expected = [1, 1, 9, 9, 9 * 1.5, 9 * 1.5**2, 9 * 1.5**2]
    assert [epoch.pressure for epoch in found] == expected


@pytest.mark.parametrize(
    ("back", "averaged"), [(2, [6, 7, 8, 9]), (5, [6, 7, 8, 9]), (8, [9]), (9, []), (None, [])]
)
def test_the_last_masks_of_held_runs_are_averaged(back: int | None, averaged: list[int]) -> None:
    found = epochs([number == back for number in range(10)])
    assert [epoch.number for epoch in found if epoch.averaged(RECIPE)] == averaged
