"""Steps of a search in bfloat16, where images are large."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor, nn

from awm_defense import examine, purify
from awm_defense.examination import rough
from awm_defense.examination.search import pick_images
from awm_defense.examination.verdict import Verdict
from tests.defense.planted import Square, known
from tests.defense.test_verdict import reach

module = importlib.import_module("awm_defense.examination.examine")


SEEN: set[tuple[bool, bool]] = set()


class Recording(nn.Module):
    """`Square`, noting in `SEEN` whether gradients will be asked for, and whether in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.square = Square()

    def forward(self, images: Tensor) -> Tensor:
        SEEN.add((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        found: Tensor = self.square(images)
        return found


def seen(monkeypatch: pytest.MonkeyPatch, *, large: bool, faster: bool) -> set[tuple[bool, bool]]:
    """How a network was used in an examination of 32x32 images."""
    for steps in ("search.STEPS", "margins.STEPS"):
        monkeypatch.setattr(f"awm_defense.examination.{steps}", 2)
    monkeypatch.setattr("awm_defense.examination.search.CONDENSING", 2)
    monkeypatch.setattr(module, "LARGE", 32 * 32 + (0 if large else 1))
    monkeypatch.setattr(module, "is_faster", lambda *_: faster)
    network, given = Recording(), known()

    # What looks at a network and its images before is none of the examination.
    def begin(labels: Tensor) -> Tensor:
        SEEN.clear()
        return pick_images(labels)

    monkeypatch.setattr(module, "pick_images", begin)
    verdict = examine(network, *given)
    assert torch.isfinite(verdict.margins).all()
    return set(SEEN)


@pytest.mark.parametrize(("large", "faster"), [(True, False), (False, True), (False, False)])
def test_all_is_in_float32(large: bool, faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    used = seen(monkeypatch, large=large, faster=faster)
    assert used == {(True, False), (False, False)}


def test_only_steps_are_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes of them is judged without a gradient."""
    used = seen(monkeypatch, large=True, faster=True)
    assert used == {(True, True), (False, False)}


@pytest.mark.parametrize(("precision", "expected"), [("fp32", False), ("bf16", True)])
def test_purify_searches_as_it_computes(
    precision: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def look(*_: object, bf16: bool, **__: object) -> Verdict:
        asked.append(bf16)
        return module.judge([reach([5.2, *[5.0] * 4])])

    monkeypatch.setattr(importlib.import_module("awm_defense.purification"), "examine_images", look)
    model = nn.Sequential(nn.Conv2d(3, 5, 8), nn.Flatten())
    purify(model, torch.rand(5, 3, 8, 8), torch.arange(5), precision=precision)
    assert asked == [expected]


@pytest.mark.parametrize(("seconds", "faster"), [((1.0, 2.0), True), ((2.0, 1.0), False)])
def test_the_faster_one_by_a_clock(
    seconds: tuple[float, float], faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def network(takes: float, images: Tensor) -> Tensor:
        nonlocal now
        now += takes
        assert len(images) == rough.TRIED
        return images.flatten(1)

    monkeypatch.setattr("awm_defense.examination.rough.time.perf_counter", lambda: now)
    one, other = (lambda images, takes=takes: network(takes, images) for takes in seconds)
    assert rough.is_faster(one, other, torch.rand(5, 3, 4, 4)) is faster
