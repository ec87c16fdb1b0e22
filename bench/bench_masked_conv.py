"""Forward and mask gradient of a masked 3x3 convolution against `conv2d(x, m * θ)`."""

import pytest
import torch
from common import DEVICE, gate, measure
from torch import Tensor
from torch.nn.functional import conv2d

from awm_kernels import masked_conv2d


def eager(x: Tensor, theta: Tensor, mask: Tensor) -> Tensor:
    return conv2d(x, mask * theta, padding=1)


def fused(x: Tensor, theta: Tensor, mask: Tensor) -> Tensor:
    return masked_conv2d(x, theta, mask, padding=1)


@pytest.mark.parametrize("channels", [64, 256])
@pytest.mark.parametrize("call", [eager, fused])
def bench_masked_conv(benchmark, call, channels):
    torch.manual_seed(0)
    side = 2048 // channels
    x = torch.randn(32, channels, side, side, device=DEVICE)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    theta = torch.randn(channels, channels, 3, 3, device=DEVICE)
    theta = theta.to(memory_format=torch.channels_last)
    mask = torch.rand_like(theta).requires_grad_()
    grad = torch.randn_like(eager(x, theta, mask))

    def step():
        return torch.autograd.grad(call(x, theta, mask), (x, mask), grad)

    gate(step()[1], torch.autograd.grad(eager(x, theta, mask), mask, grad)[0])
    measure(benchmark, f"masked_conv forward+backward, {channels} channels", step)
