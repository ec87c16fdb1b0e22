"""clip(x + Δ) and Δ's gradient, against plain PyTorch."""

import pytest
import torch

from awm_kernels import perturb
from bench.common import COMPILED, COPY, DEVICE, EAGER, KERNELS, copy_of, gate, measure


def eager(x, delta):
    return (x + delta).clamp(0, 1)


CONTESTANTS = {EAGER: eager, COMPILED: torch.compile(eager), KERNELS: perturb}
SHAPES = {"128 of 3x32x32": (128, 3, 32, 32), "32 of 3x224x224": (32, 3, 224, 224)}
# Forward: x read, result written. Backward: x and the gradient read.
ARRAYS = 4


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("contestant", [*CONTESTANTS, COPY])
def bench_perturb(benchmark, contestant, shape):
    torch.manual_seed(0)
    x = torch.rand(SHAPES[shape], device=DEVICE).to(memory_format=torch.channels_last)
    delta = (torch.randn(x.shape[1:], device=DEVICE) * 0.3).requires_grad_()
    grad = torch.randn_like(x)
    group = f"perturb forward+backward, {shape}"
    if contestant == COPY:
        return measure(benchmark, group, COPY, copy_of(ARRAYS * x.nbytes))

    def step(call):
        return torch.autograd.grad(call(x, delta), delta, grad)[0]

    call = CONTESTANTS[contestant]
    gate(step(call), step(eager))
    measure(benchmark, group, contestant, lambda: step(call))
    return None
