"""One ascent step with projection, against plain PyTorch."""

import pytest
import torch

from awm_kernels import trigger_step_
from bench.bench_l1_project import sort_project
from bench.common import COMPILED, COPY, DEVICE, EAGER, KERNELS, copy_of, gate, measure

TRIGGERS, LR, RADIUS = 10, 0.1, 100.0


def eager(delta, grad):
    return sort_project(delta + LR * grad)


def kernels(delta, grad):
    radius = torch.full((TRIGGERS,), RADIUS, device=DEVICE)
    return trigger_step_(delta.clone(), grad, lr=LR, radius=radius, project=True, batched=True)


CONTESTANTS = {EAGER: eager, COMPILED: torch.compile(eager), KERNELS: kernels}


@pytest.mark.parametrize("contestant", [*CONTESTANTS, COPY])
def bench_trigger_step(benchmark, contestant):
    torch.manual_seed(0)
    start, grad = (torch.randn(TRIGGERS, 3072, device=DEVICE) for _ in range(2))
    group = f"trigger_step_ with projection, {TRIGGERS} triggers"
    if contestant == COPY:
        return measure(benchmark, group, COPY, copy_of(3 * start.nbytes), rounds=200)
    call = CONTESTANTS[contestant]
    gate(call(start, grad), eager(start, grad))
    measure(benchmark, group, contestant, lambda: call(start, grad), rounds=200)
    return None
