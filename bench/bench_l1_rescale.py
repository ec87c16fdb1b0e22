"""Rescaling into the L1 ball, against plain PyTorch."""

import pytest
import torch
from torch import Tensor

from awm_kernels import l1_rescale_
from bench.bench_l1_project import RADIUS, SHAPES
from bench.common import COMPILED, COPY, DEVICE, EAGER, KERNELS, copy_of, gate, measure


def rescale(delta: Tensor) -> Tensor:
    return delta * (RADIUS / delta.abs().sum(1, keepdim=True)).clamp(max=1)


def kernels(delta: Tensor) -> Tensor:
    radius = torch.full((len(delta),), RADIUS, device=DEVICE)
    return l1_rescale_(delta.clone(), radius, batched=True)


CONTESTANTS = {EAGER: rescale, COMPILED: torch.compile(rescale), KERNELS: kernels}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("contestant", [*CONTESTANTS, COPY])
def bench_l1_rescale(benchmark, contestant, shape):
    torch.manual_seed(0)
    start = torch.randn(SHAPES[shape], device=DEVICE)
    group = f"l1_rescale_, {shape}"
    if contestant == COPY:
        return measure(benchmark, group, COPY, copy_of(2 * start.nbytes), rounds=200)
    call = CONTESTANTS[contestant]
    gate(call(start), rescale(start.double()))
    measure(benchmark, group, contestant, lambda: call(start), rounds=200)
    return None
