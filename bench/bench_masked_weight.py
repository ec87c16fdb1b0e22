"""W = s · m ⊙ θ of a whole network in one call against one expression a layer."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from awm_kernels import masked_weight
from bench.common import COMPILED, COPY, DEVICE, EAGER, KERNELS, copy_of, gate, measure

ROWS, WIDTH, LAYERS = 256, 2304, 19


def eager(theta, mask, scale):
    return [s[:, None] * (m * t) for t, m, s in zip(theta, mask, scale, strict=True)]


def eager_into(theta, mask, scale, out):
    for t, m, s, o in zip(theta, mask, scale, out, strict=True):
        torch.mul(m, t, out=o).mul_(s[:, None])
    return out


def kernels(theta, mask, scale, out=None):
    row_ptr = torch.arange(LAYERS * ROWS + 1, device=DEVICE) * WIDTH
    flat = (theta.view(-1), mask.view(-1), scale.view(-1))
    out = None if out is None else out.view(-1)
    return masked_weight(*flat, row_ptr=row_ptr, out=out).view_as(theta)


FRESH = "masked_weight, 11 M parameters"
INTO = "masked_weight into memory at hand (out=), 11 M parameters"
GROUPS: dict[str, dict[str, Callable[..., Any]]] = {
    FRESH: {EAGER: eager, COMPILED: torch.compile(eager), KERNELS: kernels},
    INTO: {EAGER: eager_into, KERNELS: kernels},
}
CASES = [(group, name) for group, rivals in GROUPS.items() for name in (*rivals, COPY)]


@pytest.mark.parametrize(("group", "contestant"), CASES)
def bench_masked_weight(benchmark, group, contestant):
    torch.manual_seed(0)
    theta = torch.randn(LAYERS, ROWS, WIDTH, device=DEVICE)
    mask, scale = torch.rand_like(theta), torch.rand(LAYERS, ROWS, device=DEVICE)
    if contestant == COPY:
        return measure(benchmark, group, COPY, copy_of(3 * theta.nbytes))
    call = GROUPS[group][contestant]
    if group == INTO:
        call = functools.partial(call, out=torch.empty_like(theta))
    for got, expected in zip(call(theta, mask, scale), eager(theta, mask, scale), strict=True):
        gate(got, expected)
    measure(benchmark, group, contestant, lambda: call(theta, mask, scale))
    return None
