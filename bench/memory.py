"""Peak memory of one way to purify: `python -m bench.memory KIND ARCH`, in a process of its own.

On a CPU that is how far the resident size grows beyond what it was with the model built.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
from pathlib import Path

import torch

from bench.common import ROOT
from bench.contestants import RUNS, problem

MB = 2**20


def peak_mb(kind: str, arch: str) -> float:
    """Peak memory in MB of one epoch, measured in a fresh process."""
    argv = [sys.executable, "-m", "bench.memory", kind, arch]
    done = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def _resident(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def start_watching() -> float:
    """Forget peaks up to now; what is in use, in MB."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / MB
    # 5 resets the peak (VmHWM) that the kernel keeps of this process.
    Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def peak() -> float:
    """The most in use since `start_watching`, in MB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MB
    return _resident("VmHWM")


def _measure(kind: str, arch: str) -> float:
    *arguments, recipe = problem(arch, "1")
    recipe = recipe.with_options({"inner_epochs": "1"})
    before = start_watching()
    RUNS[kind](*arguments, recipe=recipe, seed=0)
    return peak() - before


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m bench.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", metavar="KIND", help="a way to purify, of contestants.RUNS")
    parser.add_argument("arch", metavar="ARCH")
    print(_measure(**vars(parser.parse_args())))
