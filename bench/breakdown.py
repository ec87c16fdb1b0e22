"""What the time of a purification is made of: `python -m bench.breakdown --out build/breakdown`.

Three epochs of the `official` recipe, and the examination that the `default` recipe begins with (of
an untrained network, or of the real ones in the folder `--networks`, with data in AWM_DATA_DIR),
timed, and once more under PyTorch's profiler, which says what share of the time each kind of op
has; beside it what the arithmetic alone would take at the rate of a large matrix product, measured
in the same run. Writes OUT.jsonl and OUT.md. CPU only.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from awm_defense import PurifyResult, examine, purify
from bench.arithmetic import arithmetic, examination_arithmetic
from bench.bench_ceilings import SIDE
from bench.contestants import problem
from bench.kinds import KINDS, OTHER, shares
from bench.networks import find_networks, trial
from bench.run import about, duration, write

EPOCHS, REPEATS, PRODUCTS = "3", 3, 50
ARCHS = ["small_vgg", "resnet18"]
# The examination of a ResNet-18 takes minutes.
EXAMINED = ["small_vgg"]
TIMES = {
    "in all": "seconds",
    "its arithmetic alone": "arithmetic_seconds",
    "the first time, measurement of dtypes included": "first_seconds",
}


def fastest(call: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Seconds of the fastest of a few calls, after one that is not timed."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def product_rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product."""
    a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    return float(2 * SIDE**3 / fastest(lambda: a @ b, PRODUCTS))


def breakdown(arch: str) -> dict[str, Any]:
    """Seconds of a few epochs, by kind of op, and of their arithmetic alone."""
    model, images, labels, recipe = problem(arch, EPOCHS)
    start = time.perf_counter()
    first = purify(model, images, labels, recipe=recipe, seed=0)
    first_seconds = time.perf_counter() - start

    def run() -> PurifyResult:
        return purify(model, images, labels, recipe=recipe, seed=0, precision=first.precision)

    seconds = fastest(run)
    result, by_kind = shares(run)
    made = made_of(arch, seconds, by_kind, arithmetic(model, images, labels, result))
    # With the choice of dtypes by measurement, and all that a first run has to set up.
    return made | {"first_seconds": first_seconds}


def examination(
    title: str, model: nn.Module, images: Tensor, labels: Tensor, repeats: int = REPEATS
) -> dict[str, Any]:
    """How many kinds of triggers it tries is up to the network."""
    seconds = fastest(lambda: examine(model, images, labels), repeats)
    _, by_kind = shares(lambda: examine(model, images, labels))
    flops = examination_arithmetic(model, images, labels)
    return made_of(f"{title}, examination", seconds, by_kind, flops)


def made_of(
    title: str, seconds: float, by_kind: dict[str, float], flops: dict[str, float]
) -> dict[str, Any]:
    rates = {dtype: product_rate(getattr(torch, dtype)) for dtype in flops}
    return {
        "title": title,
        "seconds": seconds,
        "arithmetic_seconds": sum(count / rates[dtype] for dtype, count in flops.items()),
        "flops": flops,
        "product_rates": rates,
        "shares": by_kind,
    }


def as_markdown(rows: list[dict[str, Any]]) -> str:
    lines = [table_row("", [row["title"] for row in rows]), "|---" * (len(rows) + 1) + "|"]
    for kind in (*KINDS, OTHER):
        lines.append(table_row(kind, [f"{row['shares'][kind]:.0%}" for row in rows]))
    for title, key in TIMES.items():
        lines.append(table_row(title, [duration(row[key]) if key in row else "" for row in rows]))
    return "\n".join(lines)


def table_row(title: str, values: list[str]) -> str:
    return f"| {title} | {' | '.join(values)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.breakdown",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.jsonl and OUT.md")
    parser.add_argument("--archs", nargs="+", choices=ARCHS, default=ARCHS)
    parser.add_argument("--networks", type=Path, help="holds a folder NAME of each to examine")
    arguments = parser.parse_args()
    try:
        found = arguments.networks and find_networks(arguments.networks)
    except ValueError as error:
        parser.error(str(error))
    rows = [breakdown(arch) for arch in arguments.archs]
    if found is None:
        for arch in arguments.archs:
            if arch in EXAMINED:
                rows.append(examination(arch, *problem(arch, EPOCHS)[:3]))
    else:
        # These take long enough for one time each to do.
        for folder in found:
            of = trial(folder)
            rows.append(examination(folder.name, of.model, *of.defender(), repeats=1))
    write(arguments.out, {**about(), "rows": rows}, as_markdown(rows))


if __name__ == "__main__":
    main()
