"""W = s · m ⊙ θ of a whole network in one call against one expression a layer."""

import functools

import pytest
import torch
from common import COMPILED, COPY, DEVICE, EAGER, KERNELS, copy_of, gate, measure

from awm_kernels import backends, masked_weight

ROWS, WIDTH, LAYERS = 256, 2304, 19
INTO = "kernel alone, into memory at hand"


def eager(theta, mask, scale):
    return [s[:, None] * (m * t) for t, m, s in zip(theta, mask, scale, strict=True)]


def kernels(theta, mask, scale):
    row_ptr = torch.arange(LAYERS * ROWS + 1, device=DEVICE) * WIDTH
    flat = masked_weight(theta.view(-1), mask.view(-1), scale.view(-1), row_ptr=row_ptr)
    return flat.view_as(theta)


def written_into(out, theta, mask, scale):
    """As a purification has it: no memory is asked for, so none has to be mapped."""
    row_ptr = torch.arange(LAYERS * ROWS + 1, device=DEVICE) * WIDTH
    namespace = getattr(torch.ops, f"awm_kernels_{DEVICE}")
    namespace.masked_weight_out(theta.view(-1), mask.view(-1), scale.view(-1), row_ptr, out)
    return out.view_as(theta)


CONTESTANTS = {EAGER: eager, COMPILED: torch.compile(eager), KERNELS: kernels, INTO: written_into}


@pytest.mark.parametrize("contestant", [*CONTESTANTS, COPY])
def bench_masked_weight(benchmark, contestant):
    torch.manual_seed(0)
    theta = torch.randn(LAYERS, ROWS, WIDTH, device=DEVICE)
    mask, scale = torch.rand_like(theta), torch.rand(LAYERS, ROWS, device=DEVICE)
    group = "masked_weight, 11 M parameters"
    if contestant == COPY:
        return measure(benchmark, group, COPY, copy_of(3 * theta.nbytes))
    call = CONTESTANTS[contestant]
    if contestant == INTO:
        backends()
        call = functools.partial(call, torch.empty(theta.numel(), device=DEVICE))
    for got, expected in zip(call(theta, mask, scale), eager(theta, mask, scale), strict=True):
        gate(got, expected)
    measure(benchmark, group, contestant, lambda: call(theta, mask, scale))
    return None
