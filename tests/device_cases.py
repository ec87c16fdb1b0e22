"""Every op on random inputs of a given device and dtype, as functions of their inputs only.

The same inputs can so be run through any backend, or in float64 through the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from awm_kernels import (
    l1_project_,
    l1_rescale_,
    mask_step_,
    masked_conv2d,
    masked_linear,
    masked_weight,
    perturb,
    trigger_step_,
)

Inputs = dict[str, Tensor]


class Case(NamedTuple):
    """`run(inputs, backend)` returns all results and leaves the inputs as they were."""

    op: str
    make: Callable[[], Inputs]
    run: Callable[[Inputs, str], list[Tensor]]


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape)


def on(inputs: Inputs, device: str, dtype: torch.dtype) -> Inputs:
    """Moved there; what is kept in float32 beside a narrower tensor (`*_wide`) stays wide."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return {
        name: value.to(device, wide if name.endswith("_wide") else dtype)
        if value.is_floating_point()
        else value.to(device)
        for name, value in inputs.items()
    }


def doubled(inputs: Inputs) -> Inputs:
    return {n: v.double() if v.is_floating_point() else v for n, v in inputs.items()}


def strided(inputs: Inputs) -> Inputs:
    """The same values behind strides that are neither contiguous nor dense; NaN in between."""
    made = {}
    for name, value in inputs.items():
        made[name] = value
        if value.dim() and value.is_floating_point():
            wide = value.new_full((*value.shape, 2), float("nan"))
            wide[..., 0] = value
            made[name] = wide[..., 0]
    return made


def channels_last(inputs: Inputs) -> Inputs:
    return {
        n: v.contiguous(memory_format=torch.channels_last) if v.dim() == 4 else v
        for n, v in inputs.items()
    }


def _grads(y: Tensor, leaves: list[Tensor], grad: Tensor) -> list[Tensor]:
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def weight_case(rows: int, row: int) -> Case:
    def run(t: Inputs, backend: str) -> list[Tensor]:
        return [masked_weight(t["theta"], t["mask"], scale=t["scale_wide"], backend=backend)]

    def make() -> Inputs:
        shape = (rows, row)
        return {"theta": rand(*shape), "mask": torch.rand(shape), "scale_wide": rand(rows)}

    return Case("masked_weight", make, run)


def step_case(rows: int, row: int, adam: bool) -> Case:
    def run(t: Inputs, backend: str) -> list[Tensor]:
        mask, first, second = (t[n].clone() for n in ("mask", "first_wide", "second_wide"))
        weight, step = torch.empty_like(t["theta"]), t["step"].clone()
        moments: dict[str, Any] = {"exp_avg": first, "exp_avg_sq": second} if adam else {}
        mask_step_(
            mask,
            t["grad"],
            t["theta"],
            step,
            lr=0.1,
            l1=1e-3,
            weight_out=weight,
            scale=t["scale_wide"],
            backend=backend,
            **moments,
        )
        return [mask, weight, *moments.values()]

    def make() -> Inputs:
        shape = (rows, row)
        return {
            "mask": torch.rand(shape),
            "grad": rand(*shape),
            "theta": rand(*shape),
            "first_wide": rand(*shape),
            "second_wide": torch.rand(shape),
            "step": torch.tensor(3),
            "scale_wide": rand(rows),
        }

    return Case("mask_step_", make, run)


def ball_case(op: str, rows: int, length: int) -> Case:
    call = {"l1_rescale_": l1_rescale_, "l1_project_": l1_project_}[op]

    def run(t: Inputs, backend: str) -> list[Tensor]:
        delta = t["delta"].clone(memory_format=torch.preserve_format)
        call(delta, t["radius_wide"], batched=True, backend=backend)
        return [delta]

    def make() -> Inputs:
        return {"delta": rand(rows, length), "radius_wide": torch.rand(rows) * length}

    return Case(op, make, run)


def trigger_case(rows: int, length: int, project: bool) -> Case:
    def run(t: Inputs, backend: str) -> list[Tensor]:
        delta = t["delta"].clone(memory_format=torch.preserve_format)
        trigger_step_(
            delta,
            t["grad"],
            lr=0.7,
            radius=t["radius_wide"],
            project=project,
            batched=True,
            backend=backend,
        )
        return [delta]

    def make() -> Inputs:
        shape = (rows, length)
        radius = torch.rand(rows) * length
        return {"delta": rand(*shape), "grad": rand(*shape), "radius_wide": radius}

    return Case("trigger_step_", make, run)


def perturb_case(batch: int, side: int, one: bool) -> Case:
    def run(t: Inputs, backend: str) -> list[Tensor]:
        x, delta = (t[n].detach().requires_grad_() for n in ("x", "delta_wide"))
        return _grads(perturb(x, delta, backend=backend), [x, delta], t["grad"])

    def make() -> Inputs:
        shape = (batch, 3, side, side)
        delta = rand(*shape[1:] if one else shape)
        return {"x": torch.rand(shape), "delta_wide": delta, "grad": rand(*shape)}

    return Case("perturb", make, run)


def conv_case(
    batch: int,
    inputs: int,
    outputs: int,
    side: int,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> Case:
    padding = dilation * (kernel // 2)
    place: dict[str, Any] = {
        "stride": stride, "padding": padding, "dilation": dilation, "groups": groups
    }  # fmt: skip

    def run(t: Inputs, backend: str) -> list[Tensor]:
        x, mask = (t[n].detach().requires_grad_() for n in ("x", "mask_wide"))
        arguments = (x, t["theta_wide"], mask, t["bias"])
        y = masked_conv2d(*arguments, scale=t["scale_wide"], backend=backend, **place)
        return _grads(y, [x, mask], t["grad"])

    def make() -> Inputs:
        shape = (outputs, inputs // groups, kernel, kernel)
        out = (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        return {
            "x": rand(batch, inputs, side, side),
            "theta_wide": rand(*shape),
            "mask_wide": torch.rand(shape),
            "bias": rand(outputs),
            "scale_wide": rand(outputs),
            "grad": rand(batch, outputs, out, out),
        }

    return Case("masked_conv", make, run)


def linear_case(batch: int, inputs: int, outputs: int) -> Case:
    def run(t: Inputs, backend: str) -> list[Tensor]:
        x, mask = (t[n].detach().requires_grad_() for n in ("x", "mask_wide"))
        arguments = (x, t["theta_wide"], mask, t["bias"])
        y = masked_linear(*arguments, scale=t["scale_wide"], backend=backend)
        return _grads(y, [x, mask], t["grad"])

    def make() -> Inputs:
        return {
            "x": rand(batch, inputs),
            "theta_wide": rand(outputs, inputs),
            "mask_wide": torch.rand(outputs, inputs),
            "bias": rand(outputs),
            "scale_wide": rand(outputs),
            "grad": rand(batch, outputs),
        }

    return Case("masked_linear", make, run)


CASES = {
    "weight": weight_case(129, 577),
    "weight, one column": weight_case(4001, 1),
    "step, Adam": step_case(130, 291, True),
    "step, SGD": step_case(7, 4099, False),
    "rescale": ball_case("l1_rescale_", 5, 3072),
    "project": ball_case("l1_project_", 5, 3072),
    "project, long rows": ball_case("l1_project_", 2, 70_001),
    "trigger, rescaled": trigger_case(3, 3072, False),
    "trigger, projected": trigger_case(3, 3071, True),
    "perturb, one": perturb_case(37, 15, True),
    "perturb, each": perturb_case(5, 16, False),
    "conv 3x3": conv_case(3, 32, 48, 9, 3),
    "conv stem": conv_case(2, 3, 24, 17, 3, stride=2),
    "conv split": conv_case(2, 128, 64, 4, 3),
    "conv 1x1 stride": conv_case(3, 16, 40, 7, 1, stride=2),
    "conv dilated": conv_case(2, 8, 16, 11, 3, stride=2, dilation=2),
    "conv groups": conv_case(2, 32, 16, 8, 3, groups=2),
    "conv odd": conv_case(2, 13, 7, 9, 5, stride=3),
    "depthwise": conv_case(3, 40, 40, 9, 3, stride=2, groups=40),
    "linear": linear_case(33, 72, 40),
    "linear odd": linear_case(5, 31, 10),
}
EMPTY = {
    "weight": weight_case(0, 3),
    "rescale": ball_case("l1_rescale_", 0, 5),
    "project": ball_case("l1_project_", 0, 5),
    "trigger": trigger_case(0, 5, True),
    "perturb": perturb_case(0, 4, True),
    "conv": conv_case(0, 8, 16, 5, 3),
    "linear": linear_case(0, 8, 16),
}
