"""Into the L1 ball: projection against sorting in PyTorch, rescaling against plain PyTorch."""

import pytest
import torch
from common import DEVICE, gate, measure

from awm_kernels import _reference, l1_project_, l1_rescale_

SHAPES = {"one 3x32x32": (1, 3072), "one 3x224x224": (1, 150528), "64 of 3x32x32": (64, 3072)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["eager", "fused"])
@pytest.mark.parametrize("name", ["l1_rescale_", "l1_project_"])
def bench_l1_ball(benchmark, name, shape, kind):
    torch.manual_seed(0)
    start = torch.randn(SHAPES[shape], device=DEVICE)
    radius = torch.full((start.shape[0],), 100.0, device=DEVICE)
    plain = getattr(_reference, name)
    fused = {"l1_rescale_": l1_rescale_, "l1_project_": l1_project_}[name]

    def run(which):
        delta = start.clone()
        if which == "eager":
            plain(delta, radius)
        else:
            fused(delta, radius, batched=True)
        return delta

    gate(run("fused"), run("eager"))
    measure(benchmark, f"{name}, {shape}", lambda: run(kind))
