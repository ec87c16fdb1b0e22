"""A search's many steps in bfloat16, where images are so large that time is what counts."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

LARGE = 64 * 64 + 1
"""Pixels of an image from which that is done."""
TRIED, REPEATS = 2, 2
"""Images that both are timed with, and how often, after once that isn't; the fastest counts."""


def is_faster(
    one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], images: Tensor
) -> bool:
    """Whether one network's logits and their gradient take less time than another's.

    Args:
        one, other: from images in pixel space to logits.
        images: (n ≥ 1,c,h,w).
    """
    return _seconds(one, images[:TRIED]) < _seconds(other, images[:TRIED])


def _seconds(logits: Callable[[Tensor], Tensor], images: Tensor) -> float:
    times = []
    for _ in range(1 + REPEATS):
        given = images.clone().requires_grad_()
        start = time.perf_counter()
        torch.autograd.grad(logits(given).sum(), given)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
