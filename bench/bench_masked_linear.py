"""Forward and mask gradient of a masked linear layer against `linear(x, m * θ)`."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from awm_kernels import masked_linear
from bench.common import COMPILED, DEVICE, EAGER, KERNELS, gate, measure


def eager(x: Tensor, theta: Tensor, mask: Tensor) -> Tensor:
    return linear(x, mask * theta)


CONTESTANTS = {EAGER: eager, COMPILED: torch.compile(eager), KERNELS: masked_linear}
BATCH, INPUTS, OUTPUTS = 64, 2048, 1024


@pytest.mark.parametrize("contestant", CONTESTANTS)
def bench_masked_linear(benchmark, contestant):
    torch.manual_seed(0)
    x = torch.randn(BATCH, INPUTS, device=DEVICE)
    theta = torch.randn(OUTPUTS, INPUTS, device=DEVICE)
    mask = torch.rand_like(theta).requires_grad_()
    grad = torch.randn(BATCH, OUTPUTS, device=DEVICE)

    def step(call):
        return torch.autograd.grad(call(x, theta, mask), mask, grad)[0]

    call = CONTESTANTS[contestant]
    gate(step(call), step(eager))
    measure(
        benchmark,
        f"masked_linear forward+backward, {INPUTS} to {OUTPUTS}",
        contestant,
        lambda: step(call),
        flops=2 * 2 * BATCH * INPUTS * OUTPUTS,
    )
