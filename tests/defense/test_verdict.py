"""What is made of what was found: the verdict."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from awm_defense.examination.screen import Screening
from awm_defense.examination.verdict import CLEAR, Radii, Reach, confirm, judge, planted, threshold


def reach(margins: list[float], bound: float = 5.0, unit: str = "L1", ease: float = 1.0) -> Reach:
    values = torch.tensor(margins)
    triggers = torch.full((len(margins), 1, 2, 2), bound)
    return Reach("added to", unit, bound, triggers, (values > 0).double(), values, ease)


HONEST = [5.0, 4.0, 6.0, 5.5, 4.5]


def test_a_class_stands_out_that_is_reached_twice_as_strongly() -> None:
    found = judge([reach([9.9, *HONEST]), reach([*HONEST, 12.0], unit="x"), reach([-1.0, *HONEST])])
    assert found.backdoored is True
    assert (found.target, found.unit, found.flips) == (5, "x", 1)
    assert found.score == pytest.approx(12 / 5)
    assert judge([reach([9.9, *HONEST])]).backdoored is False
    # Nor does a multiple of next to nothing: clean images are the least to compare with.
    faint = [1.2, 0.1, 0.2, 0.1, -0.3, -0.1]
    assert judge([reach(faint, ease=0.2)]).backdoored is True
    assert judge([reach(faint, ease=1.0)]).backdoored is False
    assert judge([reach([-1.0, -3.0, -4.0, -3.0, -5.0])]).backdoored is False


def test_a_clean_verdict_says_when_it_is_one_by_little() -> None:
    narrow, wide, found = (judge([reach([top, *HONEST])]) for top in (7.6, 7.4, 12.0))
    assert narrow.narrow and str(narrow).startswith("clean, but by little: ")
    assert not wide.narrow and str(wide).startswith("clean: ")
    assert not found.narrow and str(found).startswith("backdoored: ")
    # 2.0 of 2.7, the threshold for as many classes.
    assert judge([reach([10.3, *[5.0] * 42])]).narrow


OVER_ALL = torch.tensor([1.5, 0.9, 1.0, 1.0, 1.1, 0.8])


@pytest.mark.parametrize(("top", "sure"), [(8.5, False), (12.0, True)])
def test_the_trigger_is_of_the_first_kind_with_which_the_class_nearly_stands_out(
    top: float, sure: bool
) -> None:
    others = HONEST[1:]
    warp, wrong = reach([6.5, 4.0, *others], 0.5, "pixels"), reach([4.0, 7.6, *others], 40.0)
    sparse, faint = reach([7.6, 4.0, *others], 10.0), reach([top, 4.0, *others], 1.0, "L2")
    reaches = [warp, wrong, sparse, faint]
    found = judge(reaches)
    assert (found.unit, found.norm, found.target) == ("L1", 10.0, 0)
    assert (found.score, found.backdoored) == (faint.score, sure)
    assert torch.equal(found.margins, sparse.margins)
    confirmed = confirm(reaches, OVER_ALL)
    assert confirmed.backdoored is True and torch.equal(confirmed.trigger, found.trigger)


def test_with_many_classes_it_is_the_smallest_bound_within_which_the_class_stands_out() -> None:
    """2.2 and 2.1 times the median: short of 2.7, but enough to go on to the next bound."""
    honest = [5.0] * 42
    bounds = ((40.0, 10.5), (10.0, 11.0), (5.0, 10.4))
    reaches = [reach([top, *honest], bound) for bound, top in bounds]
    found = confirm(reaches, torch.tensor([2.1, *[1.0] * 42]))
    assert (found.norm, found.backdoored) == (5.0, True) == (judge(reaches).norm, True)


def test_more_classes_must_stand_out_further() -> None:
    assert [threshold(classes) for classes in (1, 5, 10)] == [2, 2, 2]
    # The largest of n, in standard deviations, by the usual tables: 1.54, 2.51 and 3.24.
    for classes, largest in ((100, 2.51), (1000, 3.24)):
        assert threshold(classes) == pytest.approx(2 ** (largest / 1.54), rel=0.02)
    honest = [5.0] * 42
    assert judge([reach([12.0, *honest])]).backdoored is False
    assert judge([reach([12.0, *honest[:9]])]).backdoored is True
    assert judge([reach([14.0, *honest])]).backdoored is True


def test_the_smallest_bound_within_which_the_class_stands_out_is_named() -> None:
    large, middle, small = reach([15.0, *HONEST], 40), reach([12.0, *HONEST], 10), reach(HONEST)
    found = judge([large, middle, small, reach([*HONEST, 14.0], 1, "x")])
    assert (found.backdoored, found.target, found.norm, found.unit) == (True, 0, 10, "L1")
    assert torch.equal(found.trigger, torch.full((1, 2, 2), 10.0))
    assert torch.equal(found.margins, middle.margins)
    assert found.score == large.score


def test_too_few_classes_are_not_judged() -> None:
    found = judge([reach([9.0, -5.0, 4.0])])
    assert found.backdoored is None
    assert "can't tell" in str(found)


def test_a_narrow_verdict_is_confirmed_where_the_class_stands_out_over_all_images() -> None:
    reaches = [reach([7.6, *HONEST])]
    narrow, same = judge(reaches), confirm(reaches, OVER_ALL)
    assert same.backdoored is True and not same.narrow and str(same).startswith("backdoored: ")
    assert "over all images, where class 0 does so the most, 1.5 times" in str(same)
    for over_all in (OVER_ALL.roll(1), OVER_ALL.clamp(max=1.4)):
        other = confirm(reaches, over_all)
        assert other.backdoored is False and other.narrow and other.surest == over_all.argmax()
        assert str(other).startswith("clean, but by little: ")
    facts = [verdict.facts() for verdict in (narrow, same)]
    assert [(fact["surest"], fact["surest_score"]) for fact in facts] == [(None, None), (0, 1.5)]


def test_without_a_scale_there_is_no_verdict() -> None:
    """A network that does not know the images: any margin is a large multiple of next to none."""
    found = judge([reach([9.0, -5.0, -4.0, -5.5, -6.0], ease=-1.0)])
    assert found.backdoored is None and not found.recognised
    assert found.score == 0
    assert "can't tell" in str(found) and "mean and std" in str(found)


MANY = Screening(classes=1000, suspects=(700, 3), compared=(9, 4, 5))


def test_of_many_classes_those_that_were_searched_are_compared() -> None:
    """The median is of 5, 5 and 6; the threshold that of all classes, 4.3."""
    narrow, found = (
        replace(reach([top, 20.0, 6.0, 5.0, 5.0]), screening=MANY) for top in (21.0, 24.0)
    )
    verdict = judge([found])
    assert (verdict.target, verdict.classes, verdict.median) == (700, 1000, 5)
    assert verdict.backdoored is True
    assert verdict.score == pytest.approx(4.8)
    assert verdict.searched.tolist() == [700, 3, 9, 4, 5]
    assert "of 1000 classes 2 were searched that a quick screen picked, and 3 at random" in str(
        verdict
    )
    assert verdict.facts()["screening"] == {
        "classes": 1000,
        "suspects": (700, 3),
        "compared": (9, 4, 5),
    }
    assert judge([narrow]).narrow
    for top, surest in ((0, 700), (1, 3)):
        over_all = torch.tensor([1.0, 1.0, 2.0, 1.0, 1.0])
        over_all[top] = 4.0
        confirmed = confirm([narrow], over_all)
        assert (confirmed.surest, confirmed.surest_score) == (surest, 4)
        assert confirmed.backdoored is (surest == 700)


def radii(screening: Screening | None = None) -> Radii:
    """Of five classes; the third is led to by a trigger 3.2 times smaller than any other."""
    norms = torch.tensor([4.0, torch.inf, 0.5, 1.6, 2.0])
    triggers = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    margins = torch.tensor([[1.0, 1, 3, 1, 1], [-1, -2, 2, -1, -1], [-4, -3, 1, -1, -2]])
    return Radii(norms, triggers, margins, ease=1.0, screening=screening)


def test_a_class_with_a_far_smaller_trigger_is_planted() -> None:
    found = planted(radii(), flips=0.75)
    assert (found.backdoored, found.target, found.narrow) == (True, 2, False)
    assert (found.kind, found.unit, found.norm) == ("added to", "L1", 0.5)
    assert found.score == pytest.approx(3.2)
    assert (found.threshold, found.flips) == (CLEAR, 0.75)
    assert torch.equal(found.trigger, torch.full((3, 2, 2), 2.0))
    # Where it alone is led to, the most surely.
    assert found.margins.tolist() == [-1, -2, 2, -1, -1]
    # The one that nothing leads to takes half of the twelve values.
    assert found.radii is not None
    assert found.radii.tolist() == pytest.approx([4.0, 6.0, 0.5, 1.6, 2.0])
    assert str(found) == (
        "backdoored: a trigger of L1 norm 0.5 leads to class 2, and every other class needs one "
        "at least 3.2 times as large (from 2.5 on it counts as backdoored)"
    )


def test_facts_are_json_whatever_told() -> None:
    by_size, by_strength = planted(radii(), flips=0.75), judge([reach([12.0, *HONEST])])
    facts = [
        json.loads(json.dumps(found.facts(), allow_nan=False)) for found in (by_size, by_strength)
    ]
    assert [fact["threshold"] for fact in facts] == [2.5, 2.0]
    assert facts[0]["radii"] == pytest.approx([4.0, 6.0, 0.5, 1.6, 2.0])
    assert facts[1]["radii"] is None
    assert facts[0].keys() == facts[1].keys()
    assert "trigger" not in facts[0]


def test_of_many_classes_sizes_are_of_those_that_were_searched() -> None:
    found = planted(radii(MANY), flips=1.0)
    assert (found.target, found.classes, found.threshold) == (9, 1000, CLEAR)
    assert found.searched.tolist() == [700, 3, 9, 4, 5]
    assert str(found).endswith(f"counts as backdoored); {MANY}")
    assert found.facts()["screening"]["classes"] == 1000
