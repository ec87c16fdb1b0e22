"""perturb, trigger_step_ and the L1 projection: bandwidth when large, launches when small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch._C._autograd import DeviceType

from awm_kernels import _reference, l1_project_, perturb, trigger_step_
from bench.common import gate
from bench.gpu.ceilings import empty_kernel
from bench.gpu.flat import rand, share_of_copy
from bench.gpu.setting import DEVICE, GPU, REPEATS, Row, Rows, at_least, at_most, size, times

SHAPES = {"one of 3x32x32": (1, 3072), "one of 3x224x224": (1, 150528), "64 of 3x32x32": (64, 3072)}


def launches(call: Callable[[], object]) -> int:
    """Kernels that one call starts."""
    call()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    kernels = [e for e in profile.events() if e.device_type == DeviceType.CUDA]
    return len([e for e in kernels if not e.name.startswith(("Memset", "Memcpy"))])


def fresh(start: Tensor) -> Iterator[Tensor]:
    """Copies made ahead: what is in the ball already would be no work."""
    return iter([start.clone() for _ in range(REPEATS + 4)])


def project(starts: Iterator[Tensor], radius: Tensor) -> Tensor:
    return l1_project_(next(starts), radius, batched=True)


def by_sorting(starts: Iterator[Tensor], radius: Tensor) -> None:
    _reference.l1_project_(next(starts), radius)


def projections() -> Rows:
    for name, shape in SHAPES.items():
        start = torch.randn(shape, device=DEVICE)
        radius = start.abs().sum(dim=1) / 10
        ours, sorted_ = start.clone(), start.clone()
        l1_project_(ours, radius, batched=True)
        _reference.l1_project_(sorted_, radius)
        gate(ours, sorted_)
        mine, theirs = fresh(start), fresh(start)
        fast, slow = times(
            partial(project, mine, radius),
            partial(by_sorting, theirs, radius),
        )
        note = f"{1e3 * fast:.1f} us"
        label = f"l1_project_, {name}"
        yield at_least(f"{label}, torch.sort / ours", slow / fast, 10, "x", 1e3 * slow, note)
        if shape == (1, 3072):
            empty = empty_kernel()
            yield at_most(f"{label}, ours / empty kernel", fast / empty, 2, "x", 1e3 * empty, note)


def perturbation() -> Rows:
    for batch, goal in ((size(65536, 8), True), (128, False)):
        x, delta = rand(batch, 3, 32, 32), rand(3, 32, 32) - 0.5
        delta.requires_grad_()
        grad = torch.randn_like(x)

        def both(x: Tensor = x, delta: Tensor = delta, grad: Tensor = grad) -> Tensor:
            return torch.autograd.grad(perturb(x, delta), delta, grad)[0]

        gate(both(), torch.autograd.grad((x + delta).clamp(0, 1), delta, grad)[0])
        name = f"perturb and backward, {batch} of 3x32x32"
        if goal:
            yield share_of_copy(name, both, 4 * x.nbytes, 0.8)
        elif GPU:
            yield at_most(f"{name}, launches", launches(both), 2, "launches")


def steps() -> Rows:
    for rows_, goal in ((size(32768, 8), True), (10, False)):
        delta, grad = rand(rows_, 3072) - 0.5, rand(rows_, 3072) - 0.5
        radius = torch.full((rows_,), 100.0, device=DEVICE)
        expected = delta.clone()
        _reference.trigger_step_(expected, grad, radius, 0.1, True, True)

        def step(delta: Tensor, grad: Tensor = grad, radius: Tensor = radius) -> Tensor:
            return trigger_step_(delta, grad, lr=0.1, radius=radius, project=True, batched=True)

        gate(step(delta.clone()), expected)
        name = f"trigger_step_ with projection, {rows_} of 3x32x32"
        if goal:
            yield share_of_copy(name, partial(step, delta), 3 * delta.nbytes, 0.8)
        elif GPU:
            yield at_most(f"{name}, launches", launches(partial(step, delta)), 1, "launches")


def rows() -> Iterator[Row]:
    torch.manual_seed(0)
    yield from projections()
    yield from perturbation()
    yield from steps()
