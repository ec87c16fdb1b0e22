"""Registers ops that only change arguments: without autograd, they need little of `custom_op`.

`torch.library.custom_op` calls such an op through three layers of Python, some 15 µs, which is more
than the work on a small trigger takes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("awm_kernels", "FRAGMENT")


def in_place_op(*mutated: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as `awm_kernels::NAME`, an op that changes these arguments.

    Autograd does not record it, whatever requires a gradient. As PyTorch's own in-place ops do, it
    counts up the version of what it changes, so that autograd notices when a tensor saved for
    backward no longer holds what it held.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        name = function.__name__
        schema = torch.library.infer_schema(function, mutates_args=mutated)
        arguments = list(inspect.signature(function).parameters)
        places = [arguments.index(argument) for argument in mutated]

        def changing(*args: Any) -> None:
            with torch.no_grad():
                function(*args)
            for place in places:
                if isinstance(args[place], Tensor) and not args[place].is_inference():
                    torch.autograd.graph.increment_version(args[place])

        _LIBRARY.define(name + schema)
        _LIBRARY.impl(name, changing, "CompositeExplicitAutograd")
        torch.library.register_fake(f"awm_kernels::{name}", lambda *_: None, lib=_LIBRARY)
        return getattr(torch.ops.awm_kernels, name).default

    return register
