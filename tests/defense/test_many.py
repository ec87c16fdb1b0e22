"""Many purifications in one process leave nothing behind; `make soak` makes a thousand."""

from __future__ import annotations

import linecache
import os
from pathlib import Path

import pytest
import torch
from torch import fx

from awm_defense.working.sources import GENERATED, forget_sources
from tests.soak import many

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="only Linux says what a process holds"
)
# In thirty runs memory is still that of the warm-up; what is counted must be exact at once.
COUNTED = ("objects", "threads", "files")


def test_purifications_leave_nothing_behind():
    found = many.growth(30)
    # What stays of each run adds one a run; a cache that fills once does not.
    assert {
        name: slope for name, (slope, *_) in found.items() if name in COUNTED and slope > 0.5
    } == {}


def test_what_stays_is_noticed(monkeypatch):
    kept = []

    def leave(number: int) -> None:
        # Large: a small one may find room in what earlier tests have freed.
        kept.append((torch.ones(1 << 22), os.open(os.devnull, os.O_RDONLY)))

    monkeypatch.setattr(many, "one_run", leave)
    assert many.grown(many.growth(20)) == ["memory, KiB", "objects", "files"]
    for _, file in kept:
        os.close(file)


def test_what_is_generated_works_without_its_source():
    def names() -> set[str]:
        return {name for name in linecache.cache if name.startswith(GENERATED)}

    before = fx.symbolic_trace(torch.nn.Sequential(torch.nn.ReLU()))
    known = names()
    with forget_sources():
        traced = fx.symbolic_trace(torch.nn.Sequential(torch.nn.ReLU()))
        assert names() > known
    assert names() == known
    assert torch.equal(traced(-torch.ones(2)), before(-torch.ones(2)))
