"""Projection onto the L1 ball, against sorting and against libraries."""

import pytest
import torch
from torch import Tensor

from awm_kernels import l1_project_
from bench.common import COMPILED, COPY, DEVICE, EAGER, KERNELS, copy_of, gate, measure

SHAPES = {"one 3x32x32": (1, 3072), "one 3x224x224": (1, 150528), "64 of 3x32x32": (64, 3072)}
RADIUS = 100.0


def sort_project(delta: Tensor) -> Tensor:
    """Duchi et al., 2008, as one writes it in PyTorch."""
    size = delta.abs()
    falling = size.sort(dim=1, descending=True).values
    count = torch.arange(1, size.shape[1] + 1, device=delta.device)
    theta = (falling.cumsum(1) - RADIUS) / count
    last = (falling > theta).sum(1, keepdim=True) - 1
    shrunk = delta.sign() * (size - theta.gather(1, last)).clamp(min=0)
    return torch.where(size.sum(1, keepdim=True) > RADIUS, shrunk, delta)


def kernels(delta: Tensor) -> Tensor:
    radius = torch.full((len(delta),), RADIUS, device=DEVICE)
    return l1_project_(delta.clone(), radius, batched=True)


def foolbox(delta: Tensor) -> Tensor:
    eagerpy = pytest.importorskip("eagerpy")
    project = pytest.importorskip("foolbox.attacks.fast_minimum_norm").project_onto_l1_ball
    radius = torch.full((len(delta),), RADIUS, device=DEVICE)
    return project(eagerpy.astensor(delta), eagerpy.astensor(radius)).raw


def proxtorch(delta: Tensor) -> Tensor:
    ball = pytest.importorskip("proxtorch.constraints").L1Ball(RADIUS)
    return torch.stack([ball.prox(row) for row in delta])


def entmax(delta: Tensor) -> Tensor:
    """From its projection onto the simplex, for rows outside the ball."""
    sparsemax = pytest.importorskip("entmax").sparsemax
    return delta.sign() * RADIUS * sparsemax(delta.abs() / RADIUS, dim=1)


def fastprox(delta: Tensor) -> Tensor:
    if DEVICE != "cpu":
        pytest.skip("fastprox: CPU only")
    project = pytest.importorskip("fastprox").project_l1_ball
    return torch.from_numpy(project(delta.numpy(), RADIUS))


CONTESTANTS = {
    EAGER: sort_project,
    COMPILED: torch.compile(sort_project),
    KERNELS: kernels,
    "foolbox": foolbox,
    "proxtorch": proxtorch,
    "entmax": entmax,
    "fastprox": fastprox,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("contestant", [*CONTESTANTS, COPY])
def bench_l1_project(benchmark, contestant, shape):
    torch.manual_seed(0)
    start = torch.randn(SHAPES[shape], device=DEVICE)
    group = f"l1_project_, {shape}"
    if contestant == COPY:
        return measure(benchmark, group, COPY, copy_of(2 * start.nbytes), rounds=200)
    call = CONTESTANTS[contestant]
    gate(call(start), sort_project(start.double()))
    measure(benchmark, group, contestant, lambda: call(start), rounds=200)
    return None
