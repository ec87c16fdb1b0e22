"""The fused mask step against the eager sequence and torch's fused Adam; and a plain copy."""

import pytest
import torch
from common import DEVICE, gate, measure

from awm_kernels import mask_step_

SIZE = 11_000_000
LR, GAMMA = 0.01, 1e-8


class Run:
    def __init__(self, kind: str) -> None:
        torch.manual_seed(0)
        self.theta = torch.randn(SIZE, device=DEVICE)
        self.grad = torch.randn(SIZE, device=DEVICE)
        self.mask = torch.nn.Parameter(torch.rand(SIZE, device=DEVICE))
        self.weight = torch.empty_like(self.theta)
        self.adam = torch.optim.Adam([self.mask], lr=LR, fused=kind == "torch-fused-adam")
        self.moments = {
            name: torch.zeros(SIZE, device=DEVICE) for name in ("exp_avg", "exp_avg_sq")
        }
        self.step = torch.zeros((), dtype=torch.int64, device=DEVICE)
        self.kind = kind

    @torch.no_grad()
    def __call__(self) -> None:
        if self.kind == "copy":
            self.weight.copy_(self.theta)
        elif self.kind == "fused":
            mask_step_(
                self.mask.data,
                self.grad,
                self.theta,
                self.step,
                lr=LR,
                l1=GAMMA,
                weight_out=self.weight,
                **self.moments,
            )
        else:
            self.mask.grad = self.grad * self.theta + GAMMA * self.mask.sign()
            self.adam.step()
            self.mask.clamp_(0, 1)
            torch.mul(self.mask, self.theta, out=self.weight)
            self.mask.abs().sum()


@pytest.mark.parametrize("kind", ["copy", "eager", "torch-fused-adam", "fused"])
def bench_mask_step(benchmark, kind):
    ours, eager = Run("fused"), Run("eager")
    for _ in range(3):
        ours()
        eager()
    gate(ours.weight, eager.weight, 1e-3)
    del ours, eager
    measure(benchmark, f"mask_step_, {SIZE} parameters, next weights included", Run(kind))
