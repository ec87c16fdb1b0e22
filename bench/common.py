"""What the benchmarks share: the device, a correctness gate, the call to the timer.

Each benchmark file times one op and its rivals in one pytest-benchmark group, one contestant a
benchmark; `run.py` makes ratios within a group. A figure is only taken after `gate` has passed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Contestants with a meaning: ours, PyTorch written the obvious way, torch.compile of that, and a
# copy that moves as many bytes as the op has to.
KERNELS, EAGER, COMPILED, COPY = "kernels", "eager", "compiled", "copy"


def gate(got: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Refuses to time what is wrong: relative to the largest value expected."""
    error = (got.double() - expected.double()).abs().max()
    allowed = tolerance * expected.double().abs().max()
    assert error <= allowed, f"error {error:.3g} > {allowed:.3g}: not timed"


def measure(
    benchmark: Any,
    group: str,
    contestant: str,
    call: Callable[[], Any],
    *,
    rounds: int = 20,
    **about: Any,
) -> None:
    """Time `call`, waiting for the device inside the timed region."""
    benchmark.group = group
    benchmark.extra_info.update(about, contestant=contestant)

    def timed() -> None:
        call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(timed, warmup_rounds=3, rounds=rounds)


def copy_of(nbytes: int) -> Callable[[], Tensor]:
    """A copy that reads and writes `nbytes` in all."""
    source = torch.rand(nbytes // 8, device=DEVICE)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
