"""One ascent step with projection, against plain PyTorch."""

import pytest
import torch
from common import DEVICE, gate, measure

from awm_kernels import _reference, trigger_step_


@pytest.mark.parametrize("kind", ["eager", "fused"])
def bench_trigger_step(benchmark, kind):
    torch.manual_seed(0)
    start, grad = torch.randn(10, 3072, device=DEVICE), torch.randn(10, 3072, device=DEVICE)
    radius = torch.full((10,), 10.0, device=DEVICE)

    def run(which):
        delta = start.clone()
        if which == "eager":
            _reference.trigger_step_(delta, grad, radius, 0.1, True, True)
        else:
            trigger_step_(delta, grad, lr=0.1, radius=radius, project=True, batched=True)
        return delta

    gate(run("fused"), run("eager"))
    measure(benchmark, "trigger_step_ with projection, 10 triggers", lambda: run(kind))
