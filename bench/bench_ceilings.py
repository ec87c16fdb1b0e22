"""What this machine can do at most: matrix products, and a copy too large for the caches."""

import pytest
import torch

from bench.common import DEVICE, copy_of, measure

SIDE = 2048
COPIED = 1 << 29


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def bench_matmul(benchmark, dtype):
    a, b = (torch.randn(SIDE, SIDE, device=DEVICE).to(dtype) for _ in range(2))
    name = str(dtype).removeprefix("torch.")
    measure(benchmark, f"ceiling, {name} product", "matmul", lambda: a @ b, flops=2 * SIDE**3)


def bench_copy(benchmark):
    measure(benchmark, "ceiling, copy", "copy", copy_of(COPIED), nbytes=COPIED)
