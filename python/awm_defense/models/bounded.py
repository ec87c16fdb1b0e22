"""Networks of other packages, made only as large as the weights in a file may be."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

# The largest classifiers of images that are published have two thousand.
MOST_MODULES = 5000
MOST_BYTES = 1 << 33
# Over those in the file: a network is first made with the classes that it has by itself, and has
# buffers that no file holds. Twice this and what a small file inflates to stay below 1 GiB.
SPARE = 1 << 28
# Of each number in a file, whatever its type there.
FLOAT = 4


class Oversized(ValueError):
    """A network with more numbers or modules than it may have."""


def build_bounded(build: Callable[[], nn.Module], most: int) -> nn.Module:
    """What `build` makes; first without memory, to see its size.

    Args:
        build: makes a network.
        most: bytes that its parameters and buffers may have.

    Raises:
        Oversized: it has more of them, or more than `MOST_MODULES` modules.
    """
    try:
        with _bounded(most), torch.device("meta"):
            build()
    except (RuntimeError, NotImplementedError):  # some can't be made so
        pass
    with _bounded(most):
        return build()


def most_bytes(weights: Mapping[str, Tensor], size: int) -> int:
    """How many bytes a network may have for weights from a file of that size.

    Those of floating point count, twice for tied ones. They may be packed in the file, but a file
    of zeros makes no large network.
    """
    stored: dict[int, int] = {}
    for value in weights.values():  # a file of few numbers can hold many views of them
        memory = value.untyped_storage()
        count = memory.nbytes() // value.itemsize if value.is_floating_point() else 0
        stored[memory.data_ptr()] = max(count, stored.get(memory.data_ptr(), 0))
    return min(MOST_BYTES, FLOAT * min(2 * sum(stored.values()), size) + SPARE)


@contextmanager
def _bounded(most: int) -> Iterator[None]:
    """Meanwhile a network of more numbers or modules can't be made."""
    found = {"modules": 0, "bytes of numbers": 0}

    def count(kind: str, more: int, highest: int) -> None:
        found[kind] += more
        if found[kind] > highest:
            raise Oversized(f"it has more than {highest} {kind}")

    def count_module(module: nn.Module, name: str, inner: nn.Module | None) -> None:
        count("modules", 1, MOST_MODULES)

    def count_numbers(module: nn.Module, name: str, value: Tensor | None) -> None:
        count("bytes of numbers", 0 if value is None else value.nbytes, most)

    hooks: list[Any] = [
        register_module_module_registration_hook(count_module),
        register_module_parameter_registration_hook(count_numbers),
        register_module_buffer_registration_hook(count_numbers),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
