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
MOST_NUMBERS = 1 << 31
# Over those in the file: a network is first made with the classes that it has by itself, and has
# buffers that no file holds.
SPARE = 1 << 26


class Oversized(ValueError):
    """A network with more numbers or modules than it may have."""


def build_bounded(build: Callable[[], nn.Module], numbers: int) -> nn.Module:
    """What `build` makes; first without memory, to see its size.

    Args:
        build: makes a network.
        numbers: that its parameters and buffers may have.

    Raises:
        Oversized: it has more of them, or more than `MOST_MODULES` modules.
    """
    try:
        with _bounded(numbers), torch.device("meta"):
            build()
    except (RuntimeError, NotImplementedError):  # some can't be made so
        pass
    with _bounded(numbers):
        return build()


def most_numbers(weights: Mapping[str, Tensor]) -> int:
    """How many numbers a network may have for weights that are read from a file."""
    stored: dict[int, int] = {}
    for value in weights.values():  # a file of few numbers can hold many views of them
        memory = value.untyped_storage()
        count = memory.nbytes() // value.itemsize
        stored[memory.data_ptr()] = max(count, stored.get(memory.data_ptr(), 0))
    return min(MOST_NUMBERS, 2 * sum(stored.values()) + SPARE)


@contextmanager
def _bounded(numbers: int) -> Iterator[None]:
    """Meanwhile a network of more numbers or modules can't be made."""
    found = {"numbers": 0, "modules": 0}

    def count(kind: str, more: int, most: int) -> None:
        found[kind] += more
        if found[kind] > most:
            raise Oversized(f"it has more than {most} {kind}")

    def count_module(module: nn.Module, name: str, inner: nn.Module | None) -> None:
        count("modules", 1, MOST_MODULES)

    def count_numbers(module: nn.Module, name: str, value: Tensor | None) -> None:
        count("numbers", 0 if value is None else value.numel(), numbers)

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
