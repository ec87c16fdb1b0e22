"""Freed memory stays while networks are purified or trained, and goes back afterwards."""

from __future__ import annotations

import importlib
import os
import platform
import signal
import threading
from pathlib import Path

import pytest
import torch

from awm_defense import examine, purify
from awm_defense.attacks import make_attack
from awm_defense.metrics import evaluate
from awm_defense.registry import get_settings
from awm_defense.training.loop import Plan, train
from awm_defense.working import memory
from awm_defense.working.memory import ADJUSTED, KEEP, keep_freed_memory
from tests.defense.conftest import tiny_network

resource = pytest.importorskip("resource")

glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not memory._adjustable(),
    reason="needs the GNU C library, with settings that are not from the environment",
)
VALUES = 12_000_000
PAGES = VALUES * 4 // 4096


def faults() -> int:
    """Pages that the kernel fills for twenty results of 48 MB, after five more."""
    x = torch.ones(VALUES)
    for _ in range(5):
        x + 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        x + 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


@pytest.fixture
def calls(monkeypatch):
    """What the C library is told, which it is not."""
    found: list[dict[int, int]] = []
    monkeypatch.setattr(memory, "_set", found.append)
    monkeypatch.setattr(memory, "_adjustable", lambda: True)
    return found


@glibc
def test_results_take_memory_that_was_freed():
    with keep_freed_memory():
        inside = faults()
    # The heap may hand out a few addresses in turn before all of them have been used.
    assert inside < 5 * PAGES


@glibc
def test_memory_goes_back_afterwards():
    with keep_freed_memory():
        results = [torch.ones(VALUES) for _ in range(10)]
        results.clear()
        inside = resident_mb()
    assert resident_mb() < inside - 5 * 40


@glibc
def test_what_setting_up_has_freed_goes_back_before_the_epochs(monkeypatch):
    module = importlib.import_module("awm_defense.purification")
    set_up, run, found = module.make_engine, module._run, []

    def make_engine(*arguments, **options):
        results = [torch.ones(VALUES) for _ in range(10)]
        results.clear()
        found.append(resident_mb())
        return set_up(*arguments, **options)

    def epochs(*arguments):
        found.append(resident_mb())
        return run(*arguments)

    monkeypatch.setattr(module, "make_engine", make_engine)
    monkeypatch.setattr(module, "_run", epochs)
    recipe = get_settings("official").with_options({"epochs": "1"})
    purify(tiny_network(), torch.rand(4, 3, 32, 32), torch.arange(4), recipe=recipe)
    inside, after = found
    assert after < inside - 5 * 40


def test_only_the_last_one_gives_memory_back(calls):
    with keep_freed_memory():
        with keep_freed_memory():
            pass
        assert calls == [KEEP]
    assert calls == [KEEP, ADJUSTED]


def test_threads_count_together(calls):
    inside, go_on = threading.Event(), threading.Event()

    def work() -> None:
        with keep_freed_memory():
            inside.set()
            go_on.wait(60)

    thread = threading.Thread(target=work)
    with keep_freed_memory():
        thread.start()
        assert inside.wait(60)
    assert calls == [KEEP]
    go_on.set()
    thread.join()
    assert calls == [KEEP, ADJUSTED]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "1000000"),
        ("MALLOC_MMAP_MAX_", "7"),
        ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
    ],
)
def test_settings_of_the_environment_stay(monkeypatch, name, value):
    found: list[object] = []
    monkeypatch.setattr(memory, "_set", found.append)
    monkeypatch.setenv(name, value)
    with keep_freed_memory():
        pass
    assert found == []


def test_another_c_library_is_left_alone(monkeypatch):
    found: list[object] = []
    monkeypatch.setattr(memory, "_set", found.append)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    with keep_freed_memory():
        pass
    assert found == []


def test_an_error_gives_memory_back(calls):
    with pytest.raises(RuntimeError, match="boom"), keep_freed_memory():
        raise RuntimeError("boom")
    assert calls == [KEEP, ADJUSTED]


def test_an_interrupt_on_the_way_in_gives_memory_back(calls, monkeypatch):
    def interrupted(options: dict[int, int]) -> None:
        calls.append(options)
        if options is KEEP:
            raise KeyboardInterrupt

    monkeypatch.setattr(memory, "_set", interrupted)
    with pytest.raises(KeyboardInterrupt), keep_freed_memory():
        pass
    assert calls == [KEEP, ADJUSTED] and not memory._users


def test_an_interrupt_on_the_way_out_gives_memory_back(calls, monkeypatch):
    class Users(set):
        def remove(self, user: object) -> None:
            super().remove(user)
            raise KeyboardInterrupt

    monkeypatch.setattr(memory, "_users", Users())
    with pytest.raises(KeyboardInterrupt), keep_freed_memory():
        pass
    assert calls == [KEEP, ADJUSTED]


def in_fork(check) -> bool:
    """Whether `check` holds in a forked process."""
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.alarm(60)  # a deadlock ends as well
            code = 0 if check() else 1
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_processes_start_without(calls):
    def starts_anew() -> bool:
        held.__exit__(None, None, None)  # the parent's, which is none of this process's
        anew = calls == [KEEP, ADJUSTED]
        with keep_freed_memory():
            pass
        return anew and calls == [KEEP, ADJUSTED, KEEP, ADJUSTED]

    held = keep_freed_memory()
    with held, memory._lock:
        assert in_fork(starts_anew)
        assert calls == [KEEP]
    assert calls == [KEEP, ADJUSTED]


def work_with(name: str) -> None:
    images, labels = torch.rand(10, 3, 32, 32), torch.arange(10)
    if name == "train":
        train(tiny_network(), images, labels, Plan(epochs=1))
        return
    if name == "examine":
        examine(tiny_network().eval(), images, labels)
        return
    if name == "evaluate":
        evaluate(tiny_network(), images, labels, make_attack("badnets", target=0))
        return
    recipe = get_settings(name)
    if name == "official":
        recipe = recipe.with_options({"epochs": "1", "inner_epochs": "1"})
    purify(tiny_network().eval(), images, labels, recipe=recipe)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["official", "clp", "train", "examine", "evaluate"])
def test_work_keeps_memory_and_gives_it_back(calls, name):
    work_with(name)
    assert calls == [KEEP, ADJUSTED]
