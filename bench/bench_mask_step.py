"""The fused mask step against the eager sequence, torch's faster Adams, and torch.compile."""

from typing import Any

import pytest
import torch
from torch import Tensor

from awm_kernels import mask_step_
from bench.common import COMPILED, COPY, DEVICE, EAGER, KERNELS, copy_of, gate, measure

SIZES = {"11 M parameters": 11_000_000, "100 M parameters": 100_000_000}
LR, GAMMA, BETA1, BETA2, EPS = 0.01, 1e-8, 0.9, 0.999, 1e-8
ADAMS: dict[str, dict[str, Any]] = {
    EAGER: {"foreach": False},
    "foreach Adam": {"foreach": True},
    "fused Adam": {"fused": True},
}
CONTESTANTS = [*ADAMS, COMPILED, KERNELS, COPY]
# Read: gradient, weight, mask, two moments; written: mask, moments, next weight.
ARRAYS = 9


class State:
    """What a step reads and writes; a call takes one step."""

    def __init__(self, size: int, contestant: str) -> None:
        torch.manual_seed(0)
        self.theta = torch.randn(size, device=DEVICE)
        self.grad = torch.randn(size, device=DEVICE)
        self.mask = torch.nn.Parameter(torch.rand(size, device=DEVICE))
        self.weight = torch.empty_like(self.theta)
        self.call = {COMPILED: self.compiled, KERNELS: self.kernels}.get(contestant, self.sequence)
        if contestant in ADAMS:
            self.adam = torch.optim.Adam([self.mask], lr=LR, **ADAMS[contestant])
        else:
            self.step = torch.zeros((), dtype=torch.int64, device=DEVICE)
            self.moments = [torch.zeros(size, device=DEVICE) for _ in range(2)]

    @torch.no_grad()
    def __call__(self) -> None:
        self.call()

    def results(self) -> list[Tensor]:
        """All that a step writes."""
        if hasattr(self, "adam"):
            found = self.adam.state[self.mask]
            return [self.mask.data, self.weight, found["exp_avg"], found["exp_avg_sq"]]
        return [self.mask.data, self.weight, *self.moments]

    def sequence(self) -> None:
        self.mask.grad = self.grad * self.theta + GAMMA * self.mask.sign()
        self.adam.step()
        self.mask.clamp_(0, 1)
        torch.mul(self.mask, self.theta, out=self.weight)

    def kernels(self) -> None:
        exp_avg, exp_avg_sq = self.moments
        mask_step_(
            self.mask.data,
            self.grad,
            self.theta,
            self.step,
            lr=LR,
            l1=GAMMA,
            weight_out=self.weight,
            exp_avg=exp_avg,
            exp_avg_sq=exp_avg_sq,
        )

    def compiled(self) -> None:
        compiled_step(self.mask.data, self.grad, self.theta, self.weight, self.step, *self.moments)


@torch.compile
def compiled_step(
    mask: Tensor,
    grad: Tensor,
    theta: Tensor,
    weight: Tensor,
    step: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
) -> None:
    """The same arithmetic as one function."""
    step += 1
    grad = grad * theta + GAMMA * mask.sign()
    exp_avg.lerp_(grad, 1 - BETA1)
    exp_avg_sq.mul_(BETA2).addcmul_(grad, grad, value=1 - BETA2)
    mean = exp_avg / (1 - BETA1**step)
    spread = (exp_avg_sq / (1 - BETA2**step)).sqrt() + EPS
    mask.sub_(LR * mean / spread).clamp_(0, 1)
    weight.copy_(mask * theta)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("contestant", CONTESTANTS)
def bench_mask_step(benchmark, contestant, size):
    group = f"mask_step_, {size}, next weights included"
    if contestant == COPY:
        return measure(benchmark, group, COPY, copy_of(4 * ARRAYS * SIZES[size]))
    ours, eager = State(SIZES[size], contestant), State(SIZES[size], EAGER)
    for _ in range(3):
        ours()
        eager()
    for got, expected in zip(ours.results(), eager.results(), strict=True):
        gate(got, expected, 1e-3)
    del ours, eager, got, expected
    measure(benchmark, group, contestant, State(SIZES[size], contestant))
    return None
