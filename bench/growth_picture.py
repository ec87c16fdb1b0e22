"""The picture of how the cost of a purification grows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bench.kinds import KINDS

NETWORKS = "parameters (batch 8; ResNet-50 at 224x224)"


def draw_growth(run: Mapping[str, Any], path: Path) -> None:
    """Draw a run of `bench.scaling`."""
    rows = run["rows"]
    axes = list(dict.fromkeys(row["axis"] for row in rows))
    figure = Figure(figsize=(4 * len(axes), 9))
    panels = figure.subplots(3, len(axes), squeeze=False)
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
    panels[0][0].set_title(
        f"{run['device']}, torch {run['versions']['torch']}", loc="left", fontsize=9
    )
    figure.tight_layout()
    figure.savefig(path, dpi=80)
