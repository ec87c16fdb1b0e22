"""Forward and gradients of a masked 3x3 convolution against `conv2d(x, m * θ)`."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.utils import parametrize, prune

from awm_kernels import masked_conv2d
from bench.common import COMPILED, DEVICE, EAGER, KERNELS, gate, measure

CHANNELS, BATCH = [64, 256], 32


class Masked(nn.Module):
    """For `torch.nn.utils.parametrize`: the mask is learned, θ is what it was."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = nn.Parameter(mask)

    def forward(self, theta: Tensor) -> Tensor:
        return self.mask * theta


def eager(x: Tensor, theta: Tensor, mask: Tensor) -> Tensor:
    return conv2d(x, mask * theta, padding=1)


def parametrized(theta: Tensor, mask: Tensor):
    layer = plain_layer(theta).requires_grad_(False)
    masked = Masked(mask)
    parametrize.register_parametrization(layer, "weight", masked)
    return layer, masked.mask


def pruned(theta: Tensor, mask: Tensor):
    """Its mask is fixed and θ is learned: as much work, with m and θ exchanged."""
    layer = plain_layer(mask)
    prune.custom_from_mask(layer, "weight", theta)
    return layer, layer.weight_orig


def plain_layer(weight: Tensor) -> nn.Conv2d:
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False, device=DEVICE)
    layer.weight.data = weight.clone()
    return layer


def function(call):
    """A contestant from a function of images, θ and mask."""

    def make(theta: Tensor, mask: Tensor):
        mask = mask.clone().requires_grad_()
        return lambda x: call(x, theta, mask), mask

    return make


CONTESTANTS = {
    EAGER: function(eager),
    COMPILED: function(torch.compile(eager)),
    "nn.utils.parametrize": parametrized,
    "nn.utils.prune": pruned,
    KERNELS: function(lambda x, theta, mask: masked_conv2d(x, theta, mask, padding=1)),
}


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("contestant", CONTESTANTS)
def bench_masked_conv(benchmark, contestant, channels):
    torch.manual_seed(0)
    side = 2048 // channels
    x = torch.randn(BATCH, channels, side, side, device=DEVICE)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    theta = torch.randn(channels, channels, 3, 3, device=DEVICE)
    theta = theta.to(memory_format=torch.channels_last)
    start = torch.rand_like(theta)
    grad = torch.randn_like(x)

    def step(call, mask):
        return torch.autograd.grad(call(x), (x, mask), grad)

    ours = CONTESTANTS[contestant](theta, start)
    for got, expected in zip(step(*ours), step(*CONTESTANTS[EAGER](theta, start)), strict=True):
        gate(got, expected)
    measure(
        benchmark,
        f"masked_conv forward+backward, {channels} channels",
        contestant,
        lambda: step(*ours),
        flops=3 * 2 * x.numel() * channels * 9,
    )
