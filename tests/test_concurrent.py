"""The C++ CPU kernels called by several threads at once, on inputs that these share."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import Tensor

from awm_kernels import OPS, backends
from tests.cases import CASES, DIFFERENTIABLE, op

if not backends()["cpu"].available:
    pytest.skip("the C++ CPU kernels are not built (AWM_CPU)", allow_module_level=True)

THREADS, REPEATS = 4, 20


@pytest.mark.parametrize("name", [name for name, has in OPS.items() if "cpu" in has])
def test_threads_at_once_get_what_one_gets(name: str) -> None:
    given = CASES[name](torch.float32, "cpu")
    written = [
        argument.alias_info is not None and argument.alias_info.is_write
        for argument in op(name)._schema.arguments
    ]
    together = Barrier(THREADS)

    def results() -> list[Tensor]:
        args = [
            value.clone() if changed and isinstance(value, Tensor) else value
            for value, changed in zip(given, written, strict=True)
        ]
        found = [value for value, changed in zip(args, written, strict=True) if changed]
        if name in DIFFERENTIABLE:
            # Inputs that require a gradient are each thread's own; what they hold is shared.
            leaves = [value for value in args if is_float(value)]
            leaves = [value.detach().requires_grad_() for value in leaves]
            rest = iter(leaves)
            y = op(name)(*(next(rest) if is_float(value) else value for value in args))
            return [y.detach(), *torch.autograd.grad(y.sum(), leaves)]
        op(name)(*args)
        return found

    def repeated() -> list[list[Tensor]]:
        together.wait()
        return [results() for _ in range(REPEATS)]

    expected = results()
    with ThreadPoolExecutor(THREADS) as pool:
        running = [pool.submit(repeated) for _ in range(THREADS)]
        for found in (found for future in running for found in future.result()):
            assert len(found) == len(expected) > 0
            for a, b in zip(found, expected, strict=True):
                assert torch.equal(a, b)


def is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
