"""clip(x + Δ) and Δ's gradient, against plain PyTorch."""

import pytest
import torch
from common import DEVICE, gate, measure

from awm_kernels import perturb


def eager(x, delta):
    return (x + delta).clamp(0, 1)


@pytest.mark.parametrize("call", [eager, perturb])
def bench_perturb(benchmark, call):
    torch.manual_seed(0)
    x = torch.rand(128, 3, 32, 32, device=DEVICE).to(memory_format=torch.channels_last)
    delta = (torch.randn(3, 32, 32, device=DEVICE) * 0.3).requires_grad_()
    grad = torch.randn_like(x)

    def step():
        return torch.autograd.grad(call(x, delta), delta, grad)[0]

    gate(step(), torch.autograd.grad(eager(x, delta), delta, grad)[0])
    measure(benchmark, "perturb forward+backward, 128 of 3x32x32", step)
