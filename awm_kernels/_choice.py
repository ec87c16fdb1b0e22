"""Between the fused kernel and the library's, by measurement: what `backend="auto"` does on a GPU.

Every pass of a layer is measured at its first call, on that call's tensors, once per shape and
dtype in a process. Where nothing may be measured (`_timing.allowed`) and nothing was, the library's
kernels run. Tracing (torch.compile, FakeTensor) never comes here: it sees shapes only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from awm_kernels import _timing

Run = Callable[[], Tensor]
Clock = Callable[[Sequence[Run], torch.device], Sequence[float]]


class Problem(NamedTuple):
    """What a measurement holds for: one pass of one layer shape.

    `kernel` is "forward", "input gradient" or "mask gradient"; a linear layer is a convolution
    with a 1x1 window. `tf32` says whether float32 products may be rounded to it.
    """

    kernel: str
    x_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    dtype: torch.dtype
    weight_dtype: torch.dtype
    channels_last: tuple[bool, bool]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    tf32: bool
    device: torch.device


class Choice(NamedTuple):
    """What runs for a problem, and the device times it was chosen by, in milliseconds."""

    problem: Problem
    chosen: str
    fused_ms: float
    library_ms: float


_measured: dict[Problem, Choice] = {}


def run(
    problem: Problem,
    fused: Run,
    library: Run,
    allowed: Callable[[torch.device], bool] = _timing.allowed,
    clock: Clock = _timing.device_times,
) -> Tensor:
    """The result of whichever is faster for `problem`."""
    choice = _measured.get(problem)
    if choice is None and allowed(problem.device):
        fused_ms, library_ms = clock((fused, library), problem.device)
        chosen = "fused" if fused_ms < library_ms else "library"
        choice = _measured[problem] = Choice(problem, chosen, fused_ms, library_ms)
    return fused() if choice is not None and choice.chosen == "fused" else library()


def conv_choices() -> list[Choice]:
    """What `backend="auto"` measured and chose for masked convolutions and linear layers so far.

    One `Choice` for each pass of each layer shape that ran on a CUDA device in this process:
    `chosen` is "fused" (the Triton kernel that masks the weight as it is loaded) or "library"
    (`masked_weight`, then cuDNN or cuBLAS); `fused_ms` and `library_ms` are the two device times.
    A pass that ran only where nothing may be measured (in the capture of a CUDA graph, under
    `torch.use_deterministic_algorithms`, with less than 1 GiB free) used the library's kernels and
    is not listed. So run a network once before capturing it.

        >>> from awm_kernels import conv_choices
        >>> for choice in conv_choices():
        ...     print(choice.problem.kernel, choice.problem.x_shape, choice.chosen)
    """
    return list(_measured.values())
