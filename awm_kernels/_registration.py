"""Makes ops and their kernels known to PyTorch.

An op (`torch.ops.awm_kernels`) takes tensors of any layout and the name of a backend. Its compiled
kernels (`torch.ops.awm_kernels_compiled`) take dense tensors: each has one schema, and an
implementation for the CPU (csrc/cpu), for CUDA (csrc/cuda) or for both. PyTorch's dispatcher
chooses between these by the device of the tensors. Triton kernels are Python functions with the
arguments of the compiled kernel of their name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

_OPS = torch.library.Library("awm_kernels", "FRAGMENT")
_COMPILED = torch.library.Library("awm_kernels_compiled", "FRAGMENT")

KERNEL_SCHEMAS: list[str] = []


def define_kernel(schema: str) -> None:
    """Define a compiled kernel. The libraries bring its implementations when they are loaded."""
    KERNEL_SCHEMAS.append(schema)
    _COMPILED.define(schema)


@functools.cache
def kernel(op: str, name: str, backend: str) -> Callable[..., Any]:
    """The kernel `name` of `op`: from _triton/<op>.py, or compiled for the tensors' device."""
    if backend == "triton":
        return getattr(import_module(f"awm_kernels._triton.{op}"), name)
    return getattr(torch.ops.awm_kernels_compiled, name).default


def in_place_op(name: str, *mutated: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as the op `name` that changes these arguments; its last is `backend`.

    The kernel of the same name is defined with the other arguments.

    Autograd does not record the op, whatever requires a gradient. As PyTorch's own in-place ops do,
    it counts up the version of what it changes, so that autograd notices when a tensor saved for
    backward no longer holds what it held. Without autograd, `torch.library.custom_op` would bring
    nothing but its three layers of Python, some 15 µs: more than the work on a small trigger takes.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        schema = name + torch.library.infer_schema(function, mutates_args=mutated)
        arguments = list(inspect.signature(function).parameters)
        places = [arguments.index(argument) for argument in mutated]

        def changing(*args: Any) -> None:
            with torch.no_grad():
                function(*args)
            for place in places:
                if isinstance(args[place], Tensor) and not args[place].is_inference():
                    torch.autograd.graph.increment_version(args[place])

        _OPS.define(schema)
        _OPS.impl(name, changing, "CompositeExplicitAutograd")
        torch.library.register_fake(f"awm_kernels::{name}", lambda *_: None, lib=_OPS)
        define_kernel(schema.replace(", str backend", ""))
        return getattr(torch.ops.awm_kernels, name).default

    return register
