"""`python -m tests.soak.many`: a thousand purifications in one process, which must not grow.

Counts memory, Python objects, threads and open files after each; growth is the slope of a line
through what came after the warm-up. Exits with 1 where something grows. Linux alone says all this.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from awm_defense import get_settings, purify

# What a run may add, on the mean. What Python holds is counted as objects, and does not grow; the
# heap does as pieces of it stay in between: 0.6 KiB a run in one trial of a thousand, 9 in another.
ALLOWED = {"memory, KiB": 16.0, "objects": 0.5, "threads": 0.01, "files": 0.01}
WARM_UP = 0.3
SHORT = {"epochs": "1", "inner_epochs": "1"}
EXAMINED, *OTHERS = (
    get_settings(name).with_options(SHORT) for name in ("default", "official", "paper")
)
EVERY = 10
"""One in so many is examined, too, which takes ten times as long."""


def network(seed: int) -> nn.Sequential:
    """For images 3x8x8 of five classes."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 5),
    )


def one_run(number: int) -> None:
    """A purification of a network of its own."""
    generator = torch.Generator().manual_seed(number)
    images = torch.rand(5, 3, 8, 8, generator=generator)
    recipe = OTHERS[number % len(OTHERS)] if number % EVERY else EXAMINED
    purify(network(number), images, torch.arange(5), recipe=recipe, seed=number)


def held() -> list[float]:
    """What the process holds now, in the order of `ALLOWED`."""
    gc.collect()
    own = Path("/proc/self")
    pages = int((own / "statm").read_text().split()[1])
    kib = pages * os.sysconf("SC_PAGE_SIZE") / 1024
    counts = (len(os.listdir(own / part)) for part in ("task", "fd"))
    return [kib, len(gc.get_objects()), *counts]


def growth(runs: int) -> dict[str, tuple[float, float, float]]:
    """Of each thing: how much a run adds, and how much there was after warm-up and in the end."""
    found = np.empty((runs, len(ALLOWED)))
    for number in range(runs):
        one_run(number)
        found[number] = held()
    later = found[int(WARM_UP * runs) :]
    slopes = np.polyfit(np.arange(len(later)), later, 1)[0]
    return {
        name: (float(slope), float(values[0]), float(values[-1]))
        for name, slope, values in zip(ALLOWED, slopes, later.T, strict=True)
    }


def grown(found: dict[str, tuple[float, float, float]]) -> list[str]:
    """What grew by more than is allowed."""
    return [name for name, (slope, *_) in found.items() if slope > ALLOWED[name]]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000, metavar="N", help="purifications (1000)")
    runs = parser.parse_args().runs
    found = growth(runs)
    for name, (slope, first, last) in found.items():
        print(f"{name}: {first:.0f} to {last:.0f}, {slope:+.4f} a run ({ALLOWED[name]:g} allowed)")
    too_much = grown(found)
    print(f"{runs} purifications: {', '.join(too_much) + ' grew' if too_much else 'nothing grew'}")
    return 1 if too_much else 0


if __name__ == "__main__":
    sys.exit(main())
