"""Triggers condensed from noise, and what their sizes tell."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from awm_defense.examination.condense import condense, shrinking, smallest
from awm_defense.examination.verdict import Radii
from awm_kernels import l1_project_


def test_bounds_shrink_in_equal_ratios() -> None:
    assert shrinking(8, 1.0, 3) == pytest.approx([4, 2, 1])
    bounds = shrinking(3072, 2.0, 60)
    assert (len(bounds), bounds[0]) == (60, 1536) and bounds[-1] == pytest.approx(2)
    assert len({round(after / before, 9) for before, after in pairwise(bounds)}) == 1


def test_steps_go_up_the_margin_within_each_bound() -> None:
    weights, seen = torch.tensor([[2.0, -1.0], [3.0, 4.0]]), []

    def step(triggers: Tensor, grad: Tensor, bound: float) -> Tensor:
        assert not triggers.requires_grad
        seen.append(grad)
        return (triggers - grad).clamp(-bound, bound)

    path = list(condense(lambda found: (found * weights).sum(1), torch.zeros(2, 2), step, [5, 2]))
    # The margin is to rise, so what falls is the negative of it; triggers have their own slopes.
    assert all(torch.equal(grad, -weights) for grad in seen) and len(seen) == 2
    assert [bound for bound, _, _ in path] == [5, 2]
    assert [found.tolist() for _, found, _ in path] == [[[2, -1], [3, 4]], [[2, -2], [2, 2]]]
    assert [margins.tolist() for _, _, margins in path] == [[5, 25], [6, 14]]
    assert not any(part.requires_grad for _, *parts in path for part in parts)


@pytest.mark.parametrize(("start", "found"), [(0.0, False), (0.8, True)])
def test_noise_finds_what_does_nothing_while_a_part_is_missing(start: float, found: bool) -> None:
    """A unit that answers to two of four elements together has no slope at nothing."""

    def margins(triggers: Tensor) -> Tensor:
        return (triggers[:, 1] + triggers[:, 2] - 1.5).relu() - 0.1

    def step(triggers: Tensor, grad: Tensor, bound: float) -> Tensor:
        return l1_project_((triggers - grad).clamp(0, 1), bound, batched=True)

    bounds = shrinking(8, 2.0, 20)
    *_, (_, trigger, margin) = condense(margins, torch.full((1, 4), start), step, bounds)
    assert (float(margin) > 0) is found
    expected = [0.0, 1.0, 1.0, 0.0] if found else [0.0] * 4
    assert trigger[0].tolist() == pytest.approx(expected, abs=0.1)


def test_the_smallest_trigger_is_the_last_that_leads_to_a_class() -> None:
    margins = torch.tensor([[1.0, 2.0, -1.0, 0.0], [-1.0, 1.0, -2.0, 0.0], [3.0, -1.0, -3.0, 0.0]])
    bounds = [4.0, 2.0, 1.0]
    found = [torch.full((4, 2, 1), bound) for bound in bounds]
    norms, triggers, all_margins = smallest(zip(bounds, found, margins, strict=True))
    # The third is never led to, and neither is the fourth: the margin must be above 0.
    assert norms.tolist() == [1, 2, torch.inf, torch.inf]
    assert triggers[:, :, 0].tolist() == [[1, 1], [2, 2], [0, 0], [0, 0]]
    assert torch.equal(all_margins, margins)


NEVER = torch.inf
TEN = (2, 5)
"""Of triggers: ten values, so that 5 is the largest bound."""


def radii(
    norms: tuple[float, ...] = (4.0, 1.0, 3.0, NEVER, 2.6),
    margins: tuple[tuple[float, ...], ...] = ((1, 2, 1, 1, 1), (-1, 1.5, -2, -2, -1)),
    ease: float = 1.5,
) -> Radii:
    return Radii(torch.tensor(norms), torch.zeros(len(norms), 1, *TEN), torch.tensor(margins), ease)


@pytest.mark.parametrize(
    ("norms", "top", "ratio"),
    [
        ((4.0, 1.0, 3.0, NEVER, 2.6), 1, 2.6),
        ((4.0, 2.0, 2.0, NEVER, NEVER), 1, 1.0),
        # A class that nothing leads to counts as one that takes half of all values.
        ((NEVER, NEVER, NEVER, NEVER, 0.5), 4, 10.0),
        ((NEVER, NEVER, NEVER, NEVER, NEVER), 0, 1.0),
        ((5.0, NEVER, NEVER, NEVER, NEVER), 0, 1.0),
    ],
)
def test_how_much_larger_other_triggers_are(
    norms: tuple[float, ...], top: int, ratio: float
) -> None:
    found = radii(norms)
    assert found.top == top
    assert found.ratio == pytest.approx(ratio)


def test_the_margins_that_count_are_where_one_class_is_led_to_alone() -> None:
    early, surest, late = (9.0, 8.0, -1.0), (0.0, 3.0, -2.0), (-1.0, 2.0, -4.0)
    assert radii(margins=(early, surest, late)).alone.tolist() == list(surest)
    # None is, where several are or none: then those of the last step.
    assert radii(margins=(early, (2.0, 1.0, 0.5))).alone.tolist() == [2.0, 1.0, 0.5]
    assert radii(margins=(early, (-1.0, 0.0, -2.0))).alone.tolist() == [-1.0, 0.0, -2.0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"norms": (4.0, 1.0, 3.0, NEVER, 2.5)}, True),
        # Another trigger is nearly as small.
        ({"norms": (4.0, 1.0, 3.0, NEVER, 2.4)}, False),
        ({"norms": (NEVER, NEVER, NEVER, NEVER, NEVER)}, False),
        # It does not lead there as surely as images are told without one.
        ({"ease": 1.6}, False),
        # The network doesn't know the images.
        ({"ease": 0.0}, False),
        ({"ease": -1.0}, False),
        # Another class is the one that is led to alone, and at another step by more.
        ({"margins": ((-1, 1.5, -2, -2, -1), (3, -1, -1, -1, -1))}, False),
        # None is alone, ever.
        ({"margins": ((1, 9, 1, 1, 1), (1, 9, 1, 1, 1))}, True),
        ({"margins": ((1, 9, 1, 1, 1), (1, 0.5, 1, 1, 1))}, False),
        # Too few to compare.
        ({"norms": (4.0, 1.0, 3.0, 4.0), "margins": ((-1.0, 1.5, -2.0, -2.0),)}, False),
    ],
)
def test_a_class_is_planted_where_it_alone_is_led_to_by_little(
    changes: dict[str, tuple[float, ...]], expected: bool
) -> None:
    assert radii(**changes).planted is expected  # type: ignore[arg-type]
