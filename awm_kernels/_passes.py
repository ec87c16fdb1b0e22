"""What the ops with a masked weight share: a pass runs fused, or on a W of its own.

masked_conv and masked_linear have three passes each: forward, input gradient, mask gradient. A pass
runs either fused (Triton: W exists tile by tile only) or as the library's convolution or product on
a W from `masked_weight`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from awm_kernels import _choice
from awm_kernels._backend import backends
from awm_kernels._ops import _absent, _kernel, _masked_weight, _ordered, _row_sums, _scale


class Place(NamedTuple):
    """Where the window goes, over two dimensions."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


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
    place: Place,
    tf32: bool,
    fused: _choice.Run,
    library: _choice.Run,
) -> Tensor:
    """One pass that may be fused, in the two-dimensional form: measured if `backend` is auto."""
    if backend != "auto":
        return fused()
    last = (format_of(x), format_of(theta))
    problem = _choice.Problem(
        kernel,
        tuple(x.shape),
        tuple(theta.shape),
        x.dtype,
        theta.dtype,
        (last[0] == torch.channels_last, last[1] == torch.channels_last),
        tuple(place.stride),
        tuple(place.padding),
        tuple(place.dilation),
        place.groups,
        tf32,
        x.device,
    )
    return _choice.run(problem, fused, library)


def format_of(*tensors: Tensor) -> torch.memory_format:
    """channels_last if one of the tensors is: the rule that the library's convolution follows."""
    formats = [torch._prims_common.suggest_memory_format(tensor) for tensor in tensors]
    return torch.channels_last if torch.channels_last in formats else torch.contiguous_format


def fused_forward(
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    place: Place,
    tf32: bool,
    memory_format: torch.memory_format,
) -> Tensor:
    bias = None if bias is None else bias.contiguous()
    scale = _scale(scale, theta.dtype)
    forward = _kernel("triton", "masked_conv_forward")
    y: Tensor = forward(x, _ordered(theta), mask, scale, bias, *place, tf32, memory_format)
    return y


def fused_input_grad(
    grad: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    shape: torch.Size,
    place: Place,
    tf32: bool,
    memory_format: torch.memory_format,
) -> Tensor:
    scale = _scale(scale, theta.dtype)
    input_grad = _kernel("triton", "masked_conv_input_grad")
    dx: Tensor = input_grad(grad, _ordered(theta), mask, scale, shape, *place, tf32, memory_format)
    return dx


def fused_mask_grad(
    grad: Tensor,
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    place: Place,
    tf32: bool,
) -> Tensor:
    scale = _scale(scale, theta.dtype)
    mask_grad = _kernel("triton", "masked_conv_mask_grad")
    dm: Tensor = mask_grad(grad, x, _ordered(theta), scale, *place, tf32)
    return dm.to(mask.dtype)


def weight_grads(
    grad_weight: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    needs: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """dW → (dθ, dm, ds), each only if needed: the epilogue of the weight gradient."""
    need_theta, need_mask, need_scale = needs
    return (
        _masked_weight(grad_weight, mask, scale, None, theta.dtype, backend)
        if need_theta
        else _absent(theta),
        _masked_weight(theta, grad_weight, scale, None, mask.dtype, backend)
        if need_mask
        else _absent(mask),
        _row_sums(grad_weight * (mask * theta), None, scale)
        if need_scale and scale is not None
        else _absent(theta),
    )
