"""Compile every Triton kernel for sm_90, as it is launched, and fail if one spills registers.

Needs no GPU: the wrappers run on CPU tensors and each launch stops after compilation, so the
signatures, constants and alignments are those of real calls. Usage: python -m tests.triton_compile
"""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from awm_kernels._triton import (
    l1_project,
    l1_rescale,
    mask_step,
    masked_conv,
    masked_weight,
    perturb,
    trigger_step,
)
from awm_kernels._triton.masked_conv import (
    depthwise,
    forward,
    input_grad,
    mask_grad,
    tiles,
)

TARGET = GPUTarget("cuda", 90, 32)
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
FLOAT, HALF, DOUBLE = torch.float32, torch.bfloat16, torch.float64


class _NoGpu:
    """As much of a driver as compiling asks for."""

    def get_current_target(self) -> GPUTarget:
        return TARGET

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def resources(cubin: bytes) -> dict[str, int]:
    """Registers and bytes of stack, local and shared memory of the kernel in `cubin`."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [str(CUOBJDUMP), "--dump-resource-usage", file.name],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    found = dict(re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", text))
    if len(found) != 4:
        raise RuntimeError(f"expected REG, STACK, LOCAL and SHARED from cuobjdump, got: {text}")
    return {name: int(value) for name, value in found.items()}


def flat_cases() -> Iterator[tuple[str, Any]]:
    """One (label, call) a combination of options, on the elementwise kernels and the rows."""
    radius = torch.ones(4)
    for dtype, rows in itertools.product((FLOAT, HALF, DOUBLE), ("none", "equal", "pointer")):
        wide = DOUBLE if dtype == DOUBLE else FLOAT
        theta = torch.ones(64, 27, dtype=dtype)
        scale = None if rows == "none" else torch.ones(64, dtype=wide)
        row_ptr = torch.arange(65) * 27 if rows == "pointer" else None
        label = f"{str(dtype)[6:]} rows={rows}"
        yield (
            label,
            lambda t=theta, s=scale, r=row_ptr: masked_weight.masked_weight_out(t, t, s, r, t),
        )
        for moments, proximal, norm in ((2, False, 1.0), (1, True, math.inf), (0, True, math.inf)):
            state = [torch.ones(64, 27, dtype=wide) if i < moments else None for i in range(2)]
            masks = (theta.to(wide), theta, theta.to(wide), *state)
            stats, rate = torch.empty(2, dtype=DOUBLE), torch.tensor(0.01, dtype=DOUBLE)
            numbers = (rate, 0.9, 0.999, 1e-8, 1.0, 1e-8, norm, proximal)
            arguments: Any = (*masks, torch.tensor(1), theta, stats, scale, row_ptr, *numbers)
            yield f"{label} moments={moments}", lambda a=arguments: mask_step.mask_step_(*a)
    for dtype, length in itertools.product((FLOAT, HALF, DOUBLE), (3072, 150528)):
        delta, limit = torch.ones(4, length, dtype=dtype), radius
        limit = radius.to(DOUBLE) if dtype == DOUBLE else radius
        label = f"{str(dtype)[6:]} n={length}"
        yield f"{label} rescale", lambda d=delta, r=limit: l1_rescale.l1_rescale_(d, r)
        yield f"{label} project", lambda d=delta, r=limit: l1_project.l1_project_(d, r)
        for project, bound in ((True, True), (False, True), (False, False)):
            yield (
                f"{label} step project={project} bound={bound}",
                lambda d=delta, r=limit, p=project, b=bound: trigger_step.trigger_step_(
                    d, d, r, 0.1, p, b
                ),
            )
    for dtype, images in itertools.product((FLOAT, HALF, DOUBLE), (1, 64)):
        x, delta = torch.ones(64, 3072, dtype=dtype), torch.ones(images, 3072, dtype=dtype)
        label = f"{str(dtype)[6:]} deltas={images}"
        yield label, lambda x=x, d=delta: perturb.perturb_out(x, d, 0.0, 1.0, x)
        for grad_x, grad_delta in ((x, delta), (x, None), (None, delta)):
            yield (
                f"{label} x={grad_x is not None} delta={grad_delta is not None}",
                lambda x=x, d=delta, gx=grad_x, gd=grad_delta: perturb.perturb_backward_out(
                    x, x, d, 0.0, 1.0, gx, gd
                ),
            )


# (name, batch, channels in, channels out, side, kernel, stride, groups): between them the outputs
# and weights need every tile, and both ways of sharing a sum.
CONVOLUTIONS = (
    ("wide", 128, 128, 128, 32, 3, 1, 1),
    ("split", 2, 128, 128, 4, 3, 2, 1),
    ("narrow", 32, 32, 32, 32, 1, 1, 1),
    ("least", 32, 16, 16, 32, 3, 1, 1),
    ("depthwise", 32, 64, 64, 16, 3, 1, 64),
    ("stem", 32, 3, 64, 32, 3, 1, 1),
    ("odd", 3, 13, 7, 9, 5, 3, 1),
)


def conv_cases() -> Iterator[tuple[str, Any]]:
    """One (label, call) a shape and arithmetic, for the three directions."""
    arithmetic = ((FLOAT, False), (FLOAT, True), (HALF, False))
    last = torch.channels_last
    for case, (dtype, tf32) in itertools.product(CONVOLUTIONS, arithmetic):
        name, batch, inputs, outputs, side, kernel, stride, groups = case
        x = torch.ones(batch, inputs, side, side, dtype=dtype).to(memory_format=last)
        theta = torch.ones(outputs, inputs // groups, kernel, kernel).to(memory_format=last)
        place: Any = ((stride, stride), (kernel // 2, kernel // 2), (1, 1), groups, tf32)
        place_and_form = (*place, last)
        label = f"{name} {'tf32' if tf32 else str(dtype)[6:]}"
        scale, bias = torch.ones(outputs), torch.ones(outputs)
        side_out = (side + 2 * (kernel // 2) - kernel) // stride + 1
        grad = torch.ones(batch, outputs, side_out, side_out, dtype=dtype).to(memory_format=last)
        yield (
            label,
            lambda x=x, w=theta, s=scale, b=bias, p=place_and_form: masked_conv.masked_conv_forward(
                x, w, w, s, b, *p
            ),
        )
        yield (
            label,
            lambda g=grad, w=theta, s=scale, x=x, p=place_and_form: (
                masked_conv.masked_conv_input_grad(g, w, w, s, x.shape, *p)
            ),
        )
        yield (
            label,
            lambda g=grad, x=x, w=theta, s=scale, p=place: masked_conv.masked_conv_mask_grad(
                g, x, w, s, *p
            ),
        )


class _Tiles:
    """Stands in for the choice of a tile: launches every candidate, and remembers which."""

    def __init__(self) -> None:
        self.launched: set[tiles.Tile] = set()

    def __call__(self, key: Any, candidates: Any, launch: Any, device: Any) -> Tensor:
        first, *others = candidates()
        self.launched.update((first, *others))
        for tile in others:
            launch(tile)
        result: Tensor = launch(first)
        return result

    def missed(self) -> set[tiles.Tile]:
        listed = (*tiles.OUTPUT.values(), *tiles.WEIGHT.values(), tiles.DEPTHWISE)
        return set(itertools.chain(*listed)) - self.launched


def main() -> int:
    if triton.knobs.runtime.interpret:
        sys.exit("triton_compile.py compiles: run it with TRITON_INTERPRET unset")
    triton.runtime.driver.set_active(_NoGpu())
    launched: list[Any] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        launched.append((self.__name__, run(self, *args, grid=grid, warmup=True, **kwargs)))

    JITFunction.run = compile_only
    every_tile = _Tiles()
    for module in (depthwise, forward, input_grad, mask_grad):
        setattr(module, "pick", every_tile)  # noqa: B010

    seen: set[int] = set()
    kernels: set[str] = set()
    failed = 0
    print(f"{'kernel':26} {'case':44} {'regs':>5} {'spills':>7} {'shared':>7}")
    for label, call in itertools.chain(flat_cases(), conv_cases()):
        launched.clear()
        call()
        for name, kernel in launched:
            if id(kernel) in seen:
                continue
            seen.add(id(kernel))
            kernels.add(name)
            used = resources(kernel.asm["cubin"])
            spilled = used["STACK"] + used["LOCAL"]
            failed += spilled > 0
            shared = max(used["SHARED"], kernel.metadata.shared)
            print(f"{name:26} {label:44} {used['REG']:5} {spilled:7} {shared:7}", flush=True)
    print(f"{len(seen)} variants of {len(kernels)} kernels for sm_90, {failed} with spills")
    if every_tile.missed():
        print(f"not compiled, so add a case: {every_tile.missed()}")
    return 1 if failed or every_tile.missed() else 0


if __name__ == "__main__":
    sys.exit(main())
