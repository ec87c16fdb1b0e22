"""ELU behind 2x2 max-pooling, and plain ELU, against PyTorch's two ops."""

import functools

import pytest
import torch
import torch.nn.functional as F

from awm_kernels import pooled_elu
from bench.common import COMPILED, COPY, DEVICE, EAGER, KERNELS, copy_of, gate, measure


def eager(x, window):
    return F.max_pool2d(F.elu(x), window) if window > 1 else F.elu(x)


CONTESTANTS = {EAGER: eager, COMPILED: torch.compile(eager), KERNELS: pooled_elu}
SHAPES = {"54 of 32x32x32": (54, 32, 32, 32), "32 of 64x112x112": (32, 64, 112, 112)}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}


def windows(grad, window):
    """Means over windows: rounding makes ties, and then it is open whose the gradient is."""
    return F.avg_pool2d(grad.float(), window)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("contestant", [*CONTESTANTS, COPY])
def bench_pooled_elu(benchmark, contestant, window, dtype, shape):
    torch.manual_seed(0)
    x = torch.randn(SHAPES[shape], device=DEVICE).to(memory_format=torch.channels_last)
    x = x.to(DTYPES[dtype]).requires_grad_()
    group = f"pooled_elu forward+backward, window {window}, {shape}, {dtype}"
    if contestant == COPY:
        # x is read twice and its gradient written; the result and its gradient are smaller.
        moved = 3 * x.nbytes + 2 * x.nbytes // window**2
        return measure(benchmark, group, COPY, copy_of(moved))
    grad = torch.randn_like(pooled_elu(x, window))
    call = functools.partial(CONTESTANTS[contestant], x, window)

    def step(call):
        return torch.autograd.grad(call(), x, grad)[0]

    plain = functools.partial(eager, x, window)
    gate(windows(step(call), window), windows(step(plain), window), TOLERANCE[dtype])
    measure(benchmark, group, contestant, lambda: step(call))
    return None
