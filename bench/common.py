"""What the benchmarks share: the device, a correctness gate, the call to the timer.

Each benchmark file times one op and its baselines in one pytest-benchmark group, so the table's
brackets are ratios within one run. A figure is only taken after `gate` has passed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def gate(got: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Refuses to time what is wrong: relative to the largest value expected."""
    error = (got.double() - expected.double()).abs().max()
    allowed = tolerance * expected.double().abs().max()
    assert error <= allowed, f"error {error:.3g} > {allowed:.3g}: not timed"


def measure(benchmark: Any, group: str, call: Callable[[], Any], **about: Any) -> None:
    """Time `call` in `group`, waiting for the device inside the timed region."""
    benchmark.group = f"{group} ({DEVICE})"
    benchmark.extra_info.update(about, device=DEVICE, torch=torch.__version__)

    def timed() -> None:
        call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(timed, warmup_rounds=3, rounds=20)
