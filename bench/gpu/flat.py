"""mask_step_ and masked_weight on flat buffers, and against eager PyTorch on ResNet-18."""

from __future__ import annotations

import torch
from torch import Tensor

from awm_kernels import mask_step_, masked_weight
from bench.common import gate
from bench.gpu.ceilings import copy_rate
from bench.gpu.layers import RESNET18
from bench.gpu.setting import DEVICE, Row, Rows, at_least, size, times

LR, L1 = 0.01, 1e-8


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape, device=DEVICE)


def share_of_copy(name: str, call: object, moved: int, goal: float) -> Row:
    assert callable(call)
    rate = moved / times(call)[0] / 1e6
    note = f"{rate:.0f} of {copy_rate():.0f} GB/s"
    return at_least(name, rate / copy_rate(), goal, "of copy", copy_rate(), note)


class Step:
    """Adam on the masks of layers with `sizes` parameters: fused on flat buffers, or eagerly."""

    def __init__(self, sizes: list[int]) -> None:
        total = sum(sizes)
        self.theta, self.grad, self.mask = rand(total) - 0.5, rand(total) - 0.5, rand(total)
        self.weight = torch.empty_like(self.theta)
        self.first, self.second = torch.zeros_like(self.theta), torch.zeros_like(self.theta)
        self.step = torch.zeros((), dtype=torch.int64, device=DEVICE)
        self.thetas, self.grads = (
            [part.clone() for part in flat.split(sizes)] for flat in (self.theta, self.grad)
        )
        self.masks = [torch.nn.Parameter(part.clone()) for part in self.mask.split(sizes)]
        self.weights = [torch.empty_like(part) for part in self.thetas]
        self.adam = torch.optim.Adam(self.masks, lr=LR, fused=True)

    def fused(self) -> None:
        mask_step_(
            self.mask,
            self.grad,
            self.theta,
            self.step,
            lr=LR,
            exp_avg=self.first,
            exp_avg_sq=self.second,
            l1=L1,
            weight_out=self.weight,
        )

    @torch.no_grad()
    def eager(self) -> None:
        for mask, grad, theta in zip(self.masks, self.grads, self.thetas, strict=True):
            mask.grad = grad * theta
            mask.grad += L1 * mask.sign()
        self.adam.step()
        for mask, theta, weight in zip(self.masks, self.thetas, self.weights, strict=True):
            mask.clamp_(0, 1)
            torch.mul(mask, theta, out=weight)


def rows() -> Rows:
    torch.manual_seed(0)
    count = size(100_000_000, 1 << 14)
    step = Step([count])
    step.fused()
    step.eager()
    gate(step.weight, step.weights[0], 1e-3)
    name = f"mask_step_, {count} parameters"
    yield share_of_copy(name, step.fused, 9 * step.theta.nbytes, 0.85)
    out = masked_weight(step.theta, step.mask)
    gate(out, step.theta * step.mask)
    yield share_of_copy(
        f"masked_weight, {count} parameters",
        lambda: masked_weight(step.theta, step.mask),
        3 * step.theta.nbytes,
        0.85,
    )
    del step, out
    step = Step([layer.weights for layer in RESNET18] if DEVICE.type == "cuda" else [64, 128])
    step.fused()
    step.eager()
    gate(step.weight, torch.cat(step.weights), 1e-3)
    ours, eager = times(step.fused, step.eager)
    note = f"{1e3 * ours:.1f} us; {len(step.thetas)} layers of their own in eager PyTorch"
    yield at_least("mask_step_, ResNet-18, eager / fused", eager / ours, 8, "x", 1e3 * eager, note)
