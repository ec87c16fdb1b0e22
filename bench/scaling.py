"""How the cost of a purification grows: `python scaling.py --out results/scaling-cpu`.

Times one pair of steps (a trigger step and a mask step) of the `official` recipe for growing
batches, networks and images, each in a process of its own, and writes OUT.json and OUT.png. All
points are measured, then all again, and the fastest of each counts: what else runs on a shared
machine only ever adds (`rounds` in OUT.json has them all, the picture shows them small). A point of
two axes is measured once. Seconds are divided by images and by the
network's multiply-adds for one image: a flat line is linear growth. Memory is how far it grows
beyond what the network itself takes.
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

import matplotlib
import torch
from common import DEVICE
from kinds import KINDS, shares
from memory import peak, start_watching
from table import about
from torch import Tensor, nn
from tqdm import trange

from awm_defense import get_recipe
from awm_defense.allocator import keep_freed_memory
from awm_defense.engine import Engine
from awm_defense.models import build_model
from awm_defense.purify import make_engine

matplotlib.use("Agg")
from matplotlib import pyplot as plt

NETWORKS = "parameters (batch 8; ResNet-50 at 224x224)"
NETWORK_SIZES = [("small_vgg", 32), ("resnet18", 32), ("resnet50", 224)]
# (axis, value, network, images a step, image size)
POINTS = [
    *(("batch size (ResNet-18, 32x32)", b, "resnet18", b, 32) for b in (8, 16, 32, 64, 128)),
    *(("image size (ResNet-18, batch 4)", s, "resnet18", 4, s) for s in (32, 64, 128, 224)),
    *((NETWORKS, 0, arch, 8, s) for arch, s in NETWORK_SIZES),
]
# What is measured: networks, images a step, image sizes.
MEASURED = list(dict.fromkeys(point[2:] for point in POINTS))
LEAST_PAIRS, LEAST_SECONDS, ROUNDS = 3, 5.0, 3


def multiply_adds(model: nn.Module, image: Tensor) -> dict[str, float]:
    """Of each convolution and linear layer, by name, for one image (1, c, h, w)."""
    names = {m: name for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    found = dict.fromkeys(names.values(), 0.0)

    def count(layer: Any, _: Any, out: Tensor) -> None:
        found[names[layer]] += out.numel() * layer.weight[0].numel()

    handles = [layer.register_forward_hook(count) for layer in names]
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    return found


def pair(engine: Engine) -> float:
    """Seconds of a trigger step and a mask step together."""
    engine.start_phase()
    start = time.perf_counter()
    engine.trigger()
    engine.network.flat.require_grad(True)
    engine.position.zero_()
    engine.learn()
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
    engine = make_engine(model, images, labels, recipe, device=torch.device(DEVICE))
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


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    axes = list(dict.fromkeys(row["axis"] for row in rows))
    figure, panels = plt.subplots(3, len(axes), figsize=(4 * len(axes), 9), squeeze=False)
    for column, axis in enumerate(axes):
        points = sorted((r for r in rows if r["axis"] == axis), key=lambda r: r["value"])
        x = [row["value"] for row in points]
        names = [str(value) for value in x]
        if axis == NETWORKS:
            names = [f"{row['arch']}\n{row['parameters'] / 1e6:.2g} M" for row in points]
        top, middle, bottom = panels[:, column]
        work = [row["seconds"] / row["picoseconds_per_multiply_add"] for row in points]
        linear = [points[0]["seconds"] * part / work[0] for part in work]
        top.plot(x, [row["seconds"] for row in points], marker="o", label="measured")
        top.plot(x, linear, linestyle=":", color="grey", label="linear in the arithmetic")
        top.legend(fontsize=7)
        for panel, key in ((top, "seconds"), (middle, "picoseconds_per_multiply_add")):
            for at, row in zip(x, points, strict=True):
                tries = [row[key] * tried / row["seconds"] for tried in row["rounds"]]
                panel.plot([at] * len(tries), tries, linestyle="", marker="_", color="grey")
        top.set(xlabel=axis, ylabel="seconds a pair of steps", xscale="log", yscale="log")
        per_work = [row["picoseconds_per_multiply_add"] for row in points]
        middle.plot(x, per_work, marker="o", label="all")
        convolutions = [
            sum(row["shares"].get(kind, 0.0) for kind in KINDS if "convolutions" in kind)
            for row in points
        ]
        if all(convolutions):
            of_those = [whole * share for whole, share in zip(per_work, convolutions, strict=True)]
            middle.plot(x, of_those, marker=".", linestyle=":", label="the library's convolutions")
            middle.legend(fontsize=7)
        middle.set(xlabel=axis, ylabel="ps / (image · multiply-add)", xscale="log")
        bottom.plot(x, [row["peak_memory_mb"] for row in points], marker="o")
        bottom.set(xlabel=axis, ylabel="MB", xscale="log")
        for panel in (middle, bottom):
            panel.set_ylim(0, 1.05 * panel.get_ylim()[1])
        for panel in (top, middle, bottom):
            if axis == NETWORKS:
                panel.set_xscale("linear")
            panel.set_xticks(x, names, fontsize=8)
            panel.xaxis.minorticks_off()
    panels[0][0].set_title(f"{DEVICE}, torch {torch.__version__}", loc="left", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(f"results/scaling-{DEVICE}"))
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
        command = [sys.executable, __file__, "--point", str(number)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        tries[number].append(json.loads(done.stdout.splitlines()[-1]))
    fastest = [
        min(found, key=lambda row: row["seconds"]) | {"rounds": [row["seconds"] for row in found]}
        for found in tries
    ]
    found_at = dict(zip(MEASURED, fastest, strict=True))
    rows = []
    for axis, value, *place in POINTS:
        point = found_at[tuple(place)]
        rows.append({"axis": axis, "value": value or point["parameters"], **point})
    out: Path = arguments.out
    found = {**about(), "rows": rows}
    out.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{out}.json").write_text(json.dumps(found, indent=2) + "\n")
    plot(rows, Path(f"{out}.png"))


if __name__ == "__main__":
    main()
