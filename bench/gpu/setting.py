"""Where the benchmarks run, how they time, and the rows that they report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

import torch

from awm_kernels import _timing

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
REPEATS = 20 if GPU else 3
NO_GPU = "no GPU: tiny sizes on the CPU, not a measurement"


class Row(NamedTuple):
    """One figure: `met` says whether `value` reaches `goal`, None where there is no goal."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    goal: str | None = None
    met: bool | None = None
    note: str = ""


Rows = Iterator[Row]


def size(on_gpu: int, otherwise: int) -> int:
    return on_gpu if GPU else otherwise


def times(*calls: Callable[[], object]) -> list[float]:
    """Median milliseconds of each call; they take turns, with a cold L2 cache on a GPU."""
    if GPU:
        return _timing.device_times(calls, DEVICE, REPEATS)
    return _cpu_times(calls)


def _cpu_times(calls: Sequence[Callable[[], object]]) -> list[float]:
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(REPEATS):
        for call, each in zip(calls, taken, strict=True):
            start = perf_counter()
            call()
            each.append(1e3 * (perf_counter() - start))
    return [median(each) for each in taken]


def at_least(
    name: str, value: float, goal: float, unit: str, baseline: float | None = None, note: str = ""
) -> Row:
    return _judged(name, value, unit, baseline, f">= {goal:g}", value >= goal, note)


def at_most(
    name: str, value: float, goal: float, unit: str, baseline: float | None = None, note: str = ""
) -> Row:
    return _judged(name, value, unit, baseline, f"<= {goal:g}", value <= goal, note)


def _judged(
    name: str, value: float, unit: str, baseline: float | None, goal: str, met: bool, note: str
) -> Row:
    if not GPU:
        return Row(name, value, unit, baseline, goal, None, NO_GPU)
    return Row(name, value, unit, baseline, goal, met, note)


def write(rows: Rows, path: Path) -> None:
    """Writes the file anew after every row: a run that is cut short keeps what it measured."""
    kept: list[dict[str, object]] = []
    for row in rows:
        kept.append(row._asdict())
        path.write_text(json.dumps(kept, indent=1))
        print(f"{row.name:66} {row.value:12.4g} {row.unit:10} {row.goal or ''} {row.note}")
