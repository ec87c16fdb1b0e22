"""What tables and figures make of results: means over seeds, and what was measured where."""

import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from awm_defense.files.text import shown
from awm_defense.reproduce.cells import Cell

Results = Mapping[Cell, Mapping[str, Any]]


def with_seeds(cell: Cell, seeds: int) -> list[Cell]:
    """A cell for each seed; a network as it is has one only."""
    return [replace(cell, seed=seed) for seed in range(1 if cell.method == "none" else seeds)]


def mean_and_spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and standard deviation (of a sample), None where there are too few values."""
    mean = statistics.fmean(values) if values else None
    return mean, statistics.stdev(values) if len(values) > 1 else None


def describe(cells: Collection[Cell], results: Results, limit: int | None) -> str:
    """How many of the cells (of seeds from 0 on) were measured, on which images and devices."""
    devices = Counter(results[cell]["device"] for cell in cells if cell in results)
    images = "all test images" if limit is None else f"the first {limit} test images"
    hardware = "; ".join(f"{count} on {shown(name)}" for name, count in devices.most_common())
    seeds = max((cell.seed for cell in cells), default=0) + 1
    measured = f"{devices.total()} of {len(cells)} cells (seeds: {seeds}) measured on {images}"
    return f"{measured}: {hardware}" if hardware else measured
