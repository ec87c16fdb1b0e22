"""Forward and mask gradient of a masked linear layer against `linear(x, m * θ)`."""

import pytest
import torch
from common import DEVICE, gate, measure
from torch import Tensor
from torch.nn.functional import linear

from awm_kernels import masked_linear


def eager(x: Tensor, theta: Tensor, mask: Tensor) -> Tensor:
    return linear(x, mask * theta)


@pytest.mark.parametrize("call", [eager, masked_linear])
def bench_masked_linear(benchmark, call):
    torch.manual_seed(0)
    x = torch.randn(64, 2048, device=DEVICE)
    theta = torch.randn(1024, 2048, device=DEVICE)
    mask = torch.rand_like(theta).requires_grad_()
    grad = torch.randn(64, 1024, device=DEVICE)

    def step():
        return torch.autograd.grad(call(x, theta, mask), mask, grad)[0]

    gate(step(), torch.autograd.grad(eager(x, theta, mask), mask, grad)[0])
    measure(benchmark, "masked_linear forward+backward, 2048 to 1024", step)
