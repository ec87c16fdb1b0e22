"""W = s · m ⊙ θ of a whole network in one call against one expression a layer."""

import pytest
import torch
from common import DEVICE, gate, measure

from awm_kernels import masked_weight

ROWS, WIDTH, LAYERS = 256, 2304, 19


@pytest.mark.parametrize("kind", ["eager", "fused"])
def bench_masked_weight(benchmark, kind):
    torch.manual_seed(0)
    theta = torch.randn(LAYERS, ROWS, WIDTH, device=DEVICE)
    mask, scale = torch.rand_like(theta), torch.rand(LAYERS, ROWS, device=DEVICE)
    row_ptr = torch.arange(LAYERS * ROWS + 1, device=DEVICE) * WIDTH

    def eager():
        each = zip(theta, mask, scale, strict=True)
        return [s[:, None] * (m * t) for t, m, s in each]

    def fused():
        flat = (theta.view(-1), mask.view(-1), scale.view(-1))
        return masked_weight(*flat, row_ptr=row_ptr)

    gate(fused().view_as(theta), torch.stack(eager()))
    measure(benchmark, "masked_weight, 11 M parameters", {"eager": eager, "fused": fused}[kind])
