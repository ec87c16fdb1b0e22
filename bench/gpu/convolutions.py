"""The three passes of masked convolutions, layer by layer, against multiply + cuDNN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.common import gate
from bench.gpu.layers import NETWORKS, Layer, distinct
from bench.gpu.setting import DEVICE, GPU, Row, Rows, at_least, at_most, times

BATCH = 32 if GPU else 1
DTYPES = {"bfloat16": torch.bfloat16, "tf32": torch.float32}
TOLERANCE = {"bfloat16": 2e-2, "tf32": 5e-3}
PASSES = ("forward", "input gradient", "mask gradient")
FUSED = "triton" if GPU else "auto"
FORWARD = torch.ops.awm_kernels.masked_conv
BACKWARD = torch.ops.awm_kernels.masked_conv_backward
CONV, CONV_BACKWARD = torch.ops.aten.convolution, torch.ops.aten.convolution_backward


class Problem:
    """One layer at one dtype: masters in float32, activations in `dtype`, all channels_last."""

    def __init__(self, layer: Layer, dtype: torch.dtype) -> None:
        last, padding = torch.channels_last, layer.kernel // 2
        out = (layer.side + 2 * padding - layer.kernel) // layer.stride + 1

        def rand(*shape: int) -> Tensor:
            return torch.randn(shape, device=DEVICE).to(memory_format=last)

        self.x = rand(BATCH, layer.inputs, layer.side, layer.side).to(dtype)
        self.grad = rand(BATCH, layer.outputs, out, out).to(dtype)
        shape = (layer.outputs, layer.inputs // layer.groups, layer.kernel, layer.kernel)
        self.theta = rand(*shape) / (shape[1] * layer.kernel**2) ** 0.5
        self.mask = torch.rand_like(self.theta)
        self.weight = torch.empty_like(self.theta, dtype=dtype)
        self.place = ([layer.stride] * 2, [padding] * 2, [1, 1])
        self.groups = layer.groups

    def masked(self, which: str, backend: str) -> Callable[[], Tensor]:
        weights = (self.x, self.theta, self.mask, None)
        if which == "forward":
            return lambda: FORWARD(*weights, None, *self.place, self.groups, backend)
        position = {"input gradient": 0, "mask gradient": 2}[which]
        needs = [index == position for index in range(5)]
        call = (self.grad, *weights, *self.place, self.groups, needs, backend)
        return lambda: BACKWARD(*call)[position]

    def plain(self, which: str) -> Callable[[], Tensor]:
        """The same with the library's convolution and one multiplication."""
        place = (*self.place, False, [0, 0], self.groups)

        def multiplied() -> Tensor:
            return torch.mul(self.mask, self.theta, out=self.weight)

        def backward(needs: list[bool], weight: Tensor) -> Any:
            return CONV_BACKWARD(self.grad, self.x, weight, [0], *place, needs)

        if which == "forward":
            return lambda: CONV(self.x, multiplied(), None, *place)
        if which == "input gradient":
            return lambda: backward([True, False, False], multiplied())[0]
        return lambda: backward([False, True, False], self.weight)[1] * self.theta


def rows() -> Rows:
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    ahead: list[bool] = []
    behind: list[tuple[float, str]] = []
    for dtype in DTYPES:
        for network, layers in NETWORKS.items():
            for layer in distinct(layers)[: None if GPU else 2]:
                problem = Problem(layer, DTYPES[dtype])
                for which in PASSES:
                    name = f"conv, {network}, {dtype}, {layer}, {which}"
                    calls = (
                        problem.masked(which, FUSED),
                        problem.plain(which),
                        problem.masked(which, "auto"),
                    )
                    expected = calls[1]()
                    for call in (calls[0], calls[2]):
                        gate(call(), expected, TOLERANCE[dtype])
                    fused, plain, auto = times(*calls)
                    ahead.append(fused < plain)
                    behind.append((auto / min(fused, plain), name))
                    note = f"auto {1e3 * auto:.1f} us; plain / fused {plain / fused:.2f}"
                    yield Row(name, 1e3 * fused, "us", 1e3 * plain, None, None, note)
    yield at_least("conv, share of passes where fused is ahead", sum(ahead) / len(ahead), 0.5, "")
    worst, name = max(behind)
    late = sum(ratio > 1.05 for ratio, _ in behind)
    note = f"{late} of {len(behind)} passes beyond 1.05; worst: {name}"
    yield at_most("conv, auto / the faster one, worst", worst, 1.05, "x", None, note)
