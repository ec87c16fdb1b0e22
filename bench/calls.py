"""What the time of an op is made of: `python -m bench.calls --out build/calls`.

Beside the whole time of each op stand its fixed cost, that of the same call on next to no data
(Python, PyTorch's dispatcher, autograd), the time of a copy that moves as many bytes, and the time
on one thread: a pass that all threads speed up in proportion is bound by its arithmetic, one that
they don't by memory. Writes OUT.jsonl and OUT.md. CPU only.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import Timer
from tqdm import tqdm

from awm_kernels import (
    l1_project_,
    l1_rescale_,
    masked_conv2d,
    masked_linear,
    masked_weight,
    perturb,
    pooled_elu,
    trigger_step_,
)
from bench.bench_mask_step import ARRAYS, State
from bench.common import KERNELS, copy_of
from bench.run import about, duration, write

Call = Callable[[], Any]
Make = Callable[..., tuple[Call, int]]
RADIUS = 100.0
MIN_SECONDS = 0.3


def into_ball(op: Callable[..., Tensor]) -> Make:
    def make(*shape: int) -> tuple[Call, int]:
        delta = torch.randn(shape) * 10
        radius = torch.full((shape[0],), RADIUS)
        work = torch.empty_like(delta)
        return lambda: op(work.copy_(delta), radius, batched=True), 2 * delta.nbytes

    return make


def ascend(*shape: int) -> tuple[Call, int]:
    delta, grad = torch.randn(shape), torch.randn(shape)
    radius = torch.full((shape[0],), RADIUS)
    options: dict[str, Any] = {"lr": 0.1, "radius": radius, "project": True, "batched": True}
    return lambda: trigger_step_(delta, grad, **options), 3 * delta.nbytes


def clip(*shape: int) -> tuple[Call, int]:
    x = torch.rand(shape).to(memory_format=torch.channels_last)
    delta = (torch.randn(shape[1:]) * 0.3).requires_grad_()
    grad = torch.randn_like(x)
    return lambda: torch.autograd.grad(perturb(x, delta), delta, grad), 4 * x.nbytes


def activate(dtype: torch.dtype, window: int) -> Make:
    def make(*shape: int) -> tuple[Call, int]:
        x = torch.randn(shape).to(dtype=dtype, memory_format=torch.channels_last)
        x.requires_grad_()
        grad = torch.randn_like(pooled_elu(x, window))
        moved = 3 * x.nbytes + 2 * x.nbytes // window**2
        return lambda: torch.autograd.grad(pooled_elu(x, window), x, grad), moved

    return make


def step(*shape: int) -> tuple[Call, int]:
    return State(shape[0], KERNELS), 4 * ARRAYS * shape[0]


def weights(out: bool) -> Make:
    def make(*shape: int) -> tuple[Call, int]:
        theta, mask = torch.randn(shape), torch.rand(shape)
        scale, row_ptr = torch.rand(shape[0]), torch.arange(shape[0] + 1) * shape[1]
        into = torch.empty_like(theta).view(-1) if out else None
        flat = (theta.view(-1), mask.view(-1), scale)
        return lambda: masked_weight(*flat, row_ptr=row_ptr, out=into), 3 * theta.nbytes

    return make


def convolve(*shape: int) -> tuple[Call, int]:
    batch, channels, side = shape
    x = torch.randn(batch, channels, side, side).to(memory_format=torch.channels_last)
    theta = torch.randn(channels, channels, 3, 3).to(memory_format=torch.channels_last)
    mask = torch.rand_like(theta)
    x.requires_grad_()
    mask.requires_grad_()
    grad = torch.randn_like(x)

    def call() -> Any:
        y = masked_conv2d(x, theta, mask, padding=1)
        return torch.autograd.grad(y, (x, mask), grad)

    return call, 5 * x.nbytes + 6 * theta.nbytes


def multiply(*shape: int) -> tuple[Call, int]:
    batch, inputs, outputs = shape
    x = torch.randn(batch, inputs)
    theta, mask = torch.randn(outputs, inputs), torch.rand(outputs, inputs, requires_grad=True)
    grad = torch.randn(batch, outputs)

    def call() -> Any:
        return torch.autograd.grad(masked_linear(x, theta, mask), mask, grad)

    return call, 2 * x.nbytes + 2 * grad.nbytes + 5 * theta.nbytes


# (title, what makes a call and counts its bytes, sizes, next to no data)
OPS: list[tuple[str, Make, Sequence[tuple[int, ...]], tuple[int, ...]]] = [
    ("l1_project_", into_ball(l1_project_), [(1, 3072), (1, 150528), (64, 3072)], (1, 3)),
    ("l1_rescale_", into_ball(l1_rescale_), [(1, 3072), (1, 150528), (64, 3072)], (1, 3)),
    ("trigger_step_ with projection", ascend, [(10, 3072)], (1, 3)),
    ("perturb, both passes", clip, [(1, 3, 32, 32), (128, 3, 32, 32), (32, 3, 224, 224)], (1,) * 4),
    *(
        (
            f"pooled_elu, window {window}, both passes, {name}",
            activate(getattr(torch, name), window),
            [(54, 32, 32, 32), (32, 64, 112, 112)],
            (1, 1, 2, 2),
        )
        for window in (1, 2)
        for name in ("float32", "bfloat16")
    ),
    ("masked_conv, both passes", convolve, [(32, 64, 32), (32, 256, 8)], (1, 1, 1)),
    ("masked_linear, forward and mask gradient", multiply, [(64, 2048, 1024)], (1, 1, 1)),
    ("mask_step_", step, [(11_000_000,), (100_000_000,)], (1,)),
    ("masked_weight", weights(out=False), [(4864, 2304)], (1, 1)),
    ("masked_weight, out=", weights(out=True), [(4864, 2304)], (1, 1)),
]


def seconds(call: Call, threads: int | None = None) -> float:
    """Of one call, the fastest of many."""
    timer = Timer("call()", globals={"call": call}, num_threads=threads or torch.get_num_threads())
    return float(min(timer.blocked_autorange(min_run_time=MIN_SECONDS).times))


def breakdown() -> list[dict[str, Any]]:
    rows = []
    with tqdm(total=sum(len(sizes) for _, _, sizes, _ in OPS), desc="ops") as bar:
        for title, make, sizes, nothing in OPS:
            fixed = seconds(make(*nothing)[0])
            for size in sizes:
                call, moved = make(*size)
                rows.append(
                    {
                        "op": title,
                        "size": "x".join(str(side) for side in size),
                        "seconds": seconds(call),
                        "fixed": fixed,
                        "copy": seconds(copy_of(moved)),
                        "one_thread": seconds(call, threads=1),
                    }
                )
                bar.update()
    return rows


def as_markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| op | size | in all | fixed | a copy | one thread | threads' gain |",
        "|---" * 7 + "|",
    ]
    for row in rows:
        times = [duration(row[key]) for key in ("seconds", "fixed", "copy", "one_thread")]
        gain = f"{row['one_thread'] / row['seconds']:.2f}×"
        lines.append(f"| {' | '.join([row['op'], row['size'], *times, gain])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.calls",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.jsonl and OUT.md")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows = breakdown()
    write(arguments.out, {**about(), "rows": rows}, as_markdown(rows))


if __name__ == "__main__":
    main()
