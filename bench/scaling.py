"""How the cost of a purification grows: `python -m bench.scaling --out build/growth`.

Times one pair of steps (a trigger step and a mask step) of the `official` recipe for growing
batches, networks and images, each in a process of its own, and writes OUT.jsonl and OUT.png. All
points are measured, then all again, and the fastest of each counts: what else runs on a shared
machine only ever adds (`rounds` in OUT.jsonl has them all, the picture shows them small). A point
of two axes is measured once. Seconds are divided by images and by the network's multiply-adds for
one image: a flat line is linear growth. Memory is how far it grows beyond what the network itself
takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import trange

from awm_defense import get_recipe
from awm_defense.awm.engine import Engine, make_engine
from awm_defense.models import build_model
from awm_defense.pixel_model import PixelModel
from awm_defense.working.memory import keep_freed_memory
from bench.arithmetic import multiply_adds
from bench.common import DEVICE, ROOT
from bench.growth_picture import NETWORKS, draw_growth
from bench.kinds import shares
from bench.memory import peak, start_watching
from bench.results import write_run
from bench.run import about

NETWORK_SIZES = [("small_vgg", 32), ("resnet18", 32), ("resnet50", 224)]
# (axis, value, network, images a step, image size)
POINTS: list[tuple[str, int, str, int, int]] = [
    *(("batch size (ResNet-18, 32x32)", b, "resnet18", b, 32) for b in (8, 16, 32, 64, 128)),
    *(("image size (ResNet-18, batch 4)", s, "resnet18", 4, s) for s in (32, 64, 128, 224)),
    *((NETWORKS, 0, arch, 8, s) for arch, s in NETWORK_SIZES),
]
# What is measured: networks, images a step, image sizes.
MEASURED = list(dict.fromkeys(point[2:] for point in POINTS))
LEAST_PAIRS, LEAST_SECONDS, ROUNDS = 3, 5.0, 3


def pair(engine: Engine) -> float:
    """Seconds of a trigger step and a mask step together."""
    engine.buffers.start_phase()
    start = time.perf_counter()
    engine.trigger_phase.climb()
    engine.network.flat.require_grad(True)
    engine.buffers.position.zero_()
    engine.under_delta.learn()
    engine.network.flat.require_grad(False)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def pair_seconds(engine: Engine) -> float:
    """Median over the pairs of a few seconds, without those that warm up."""
    for _ in range(2):
        pair(engine)
    found: list[float] = []
    while len(found) < LEAST_PAIRS or sum(found) < LEAST_SECONDS:
        found.append(pair(engine))
    return statistics.median(found)


@keep_freed_memory()
def measure(arch: str, batch: int, size: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = build_model(arch, 10).eval().to(DEVICE)
    # Batches are drawn with replacement, and on a CPU an image drawn twice is computed once: that
    # has to be as rare in large batches as in small ones.
    count = 16 * batch
    images, labels = torch.rand(count, 3, size, size), torch.arange(count) % 10
    recipe = get_recipe("official").with_options({"batch_size": str(batch)})
    before = start_watching()
    pixel_model = PixelModel(model, images, device=DEVICE).copy(images)
    engine = make_engine(pixel_model, *pixel_model.take(images, labels), recipe)
    seconds = pair_seconds(engine)
    memory = peak() - before
    by_kind = shares(lambda: pair(engine))[1] if DEVICE == "cpu" else {}
    parameters = sum(p.numel() for p in model.parameters())
    work = sum(multiply_adds(model, images[:1].to(DEVICE)).values()) * batch
    return {
        "arch": arch,
        "batch": batch,
        "size": size,
        "parameters": parameters,
        "seconds": seconds,
        "peak_memory_mb": memory,
        "picoseconds_per_multiply_add": seconds / work * 1e12,
        "shares": by_kind,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("build/growth"))
    parser.add_argument(
        "--point",
        type=int,
        choices=range(len(MEASURED)),
        metavar="N",
        help="only print this one, once; a number from 0",
    )
    arguments = parser.parse_args()
    if arguments.point is not None:
        print(json.dumps(measure(*MEASURED[arguments.point])))
        return
    tries: list[list[dict[str, Any]]] = [[] for _ in MEASURED]
    for turn in trange(ROUNDS * len(MEASURED), desc="points"):
        number = turn % len(MEASURED)
        command = [sys.executable, "-m", "bench.scaling", "--point", str(number)]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        tries[number].append(json.loads(done.stdout.splitlines()[-1]))
    fastest = [
        min(found, key=lambda row: row["seconds"]) | {"rounds": [row["seconds"] for row in found]}
        for found in tries
    ]
    found_at = dict(zip(MEASURED, fastest, strict=True))
    rows = []
    for axis, value, arch, batch, size in POINTS:
        point = found_at[arch, batch, size]
        rows.append({"axis": axis, "value": value or point["parameters"], **point})
    out: Path = arguments.out
    found = {**about(), "rows": rows}
    write_run(Path(f"{out}.jsonl"), found)
    draw_growth(found, Path(f"{out}.png"))


if __name__ == "__main__":
    main()
