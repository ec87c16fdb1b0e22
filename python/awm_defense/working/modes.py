"""What a caller may have switched in PyTorch, and the work must not depend on."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
Result = TypeVar("Result")


@contextmanager
def own_modes() -> Iterator[None]:
    """Meanwhile gradients are recorded, autocast is off, and new tensors are made on the CPU."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


def each_in_own_modes(generate: Callable[P, Iterator[Result]]) -> Callable[P, Iterator[Result]]:
    """A generator that works in `own_modes`; whoever takes its results stays in their own."""

    @functools.wraps(generate)
    def generated(*args: P.args, **kwargs: P.kwargs) -> Iterator[Result]:
        results = generate(*args, **kwargs)
        while True:
            with own_modes():
                try:
                    result = next(results)
                except StopIteration:
                    return
            yield result

    return generated
