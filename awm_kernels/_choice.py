"""Between the fused kernels and the library's: which of them does a pass of a masked layer.

masked_conv and masked_linear have three passes each: forward, input gradient, mask gradient. A pass
runs either fused (Triton: W exists tile by tile only) or as the library's convolution or product on
a W from `masked_weight`. `backend="auto"` chooses by measurement on a GPU: every pass of a layer is
measured at its first call, on that call's tensors, once per shape and dtype in a process. Where
nothing may be measured (`_timing.allowed`) and nothing was, the library's kernels run. Tracing
(torch.compile, FakeTensor) never comes here: it sees shapes only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from awm_kernels import _timing
from awm_kernels._backend import backends

Run = Callable[[], Tensor]
Clock = Callable[[Sequence[Run], torch.device], Sequence[float]]


class ConvParams(NamedTuple):
    """How a convolution over two dimensions moves its window."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


class LayerPass(NamedTuple):
    """What a measurement holds for: one pass of one layer shape.

    `kernel` is "forward", "input gradient" or "mask gradient"; a linear layer has shapes of two
    dimensions and a 1x1 window. `tf32` says whether float32 products may be rounded to it.
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
    """What runs for a pass, and the device times it was chosen by, in milliseconds."""

    problem: LayerPass
    chosen: str
    fused_ms: float
    library_ms: float


_measured: dict[LayerPass, Choice] = {}


def may_fuse(backend: str, chosen: str, x: Tensor) -> bool:
    """Whether a call may run on the fused kernels, from the backend asked for and the one chosen.

    They have no float64, no third dimension, and CUDA tensors only (or Triton's interpreter).
    """
    if x.dtype == torch.float64 or x.dim() == 5:
        return False
    if backend == "auto":
        return x.is_cuda and chosen != "reference" and backends()["triton"].available
    return backend == "triton"


def for_weights(backend: str, chosen: str) -> str:
    """The backend of `masked_weight` in a layer: its own choice, where there is one."""
    return "auto" if backend == "auto" and chosen != "reference" else chosen


def either(
    kernel: str,
    backend: str,
    x: Tensor,
    theta: Tensor,
    params: ConvParams,
    tf32: bool,
    fused: Run,
    library: Run,
) -> Tensor:
    """One pass that may be fused, over two dimensions: measured if `backend` is auto."""
    if backend != "auto":
        return fused()
    last = (format_of(x), format_of(theta))
    layer_pass = LayerPass(
        kernel,
        tuple(x.shape),
        tuple(theta.shape),
        x.dtype,
        theta.dtype,
        (last[0] == torch.channels_last, last[1] == torch.channels_last),
        tuple(params.stride),
        tuple(params.padding),
        tuple(params.dilation),
        params.groups,
        tf32,
        x.device,
    )
    return run(layer_pass, fused, library)


def format_of(*tensors: Tensor) -> torch.memory_format:
    """channels_last if one of the tensors is: the rule that the library's convolution follows."""
    formats = [torch._prims_common.suggest_memory_format(tensor) for tensor in tensors]
    return torch.channels_last if torch.channels_last in formats else torch.contiguous_format


def run(
    layer_pass: LayerPass,
    fused: Run,
    library: Run,
    allowed: Callable[[torch.device], bool] = _timing.allowed,
    clock: Clock = _timing.device_times,
) -> Tensor:
    """The result of whichever is faster for `layer_pass`."""
    choice = _measured.get(layer_pass)
    if choice is None and allowed(layer_pass.device):
        fused_ms, library_ms = clock((fused, library), layer_pass.device)
        chosen = "fused" if fused_ms < library_ms else "library"
        choice = _measured[layer_pass] = Choice(layer_pass, chosen, fused_ms, library_ms)
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
