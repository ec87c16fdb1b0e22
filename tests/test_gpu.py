"""Triton kernels on a CUDA device against the reference on the same device."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, op
from torch import Tensor

from awm_kernels import OPS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPS)
def test_triton_equals_the_reference(name: str, dtype: torch.dtype) -> None:
    def run(backend: str) -> list[Tensor]:
        args = tuple(a.cuda() if isinstance(a, Tensor) else a for a in CASES[name](dtype, backend))
        result = op(name)(*args)
        return (
            [result] if isinstance(result, Tensor) else [a for a in args if isinstance(a, Tensor)]
        )

    torch.testing.assert_close(run("triton"), run("reference"))
