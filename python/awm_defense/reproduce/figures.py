"""Figures 1-3 of the AWM paper: which value of which cell stands where, and the drawing."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from awm_defense.files.atomic import write_bytes
from awm_defense.report.drawing import default_settings, drawn, new_figure
from awm_defense.reproduce.cells import Cell
from awm_defense.reproduce.layouts import ATTACKS, NETWORKS, ONE_SHOT
from awm_defense.reproduce.methods import with_settings
from awm_defense.reproduce.studies import THRESHOLDS
from awm_defense.reproduce.summary import Results, describe, mean_and_spread, with_seeds

METRICS = {
    "acc": "ACC",
    "asr_all": "ASR, as the paper counts",
    "asr": "ASR without target class",
}
CLASSES = 10  # of CIFAR-10
# Figure 1: sizes of the available data, and the one that networks are compared with.
SIZES = (5000, 500, 200, 100, 50, ONE_SHOT)
SIZE = 500
# Figures 2 and 3: the paper's defaults, and values within its ranges.
DEFAULTS = {"alpha": 0.9, "gamma": 1e-7, "tau": 1000.0}
SWEEPS = {
    "alpha": (0.5, 0.65, 0.8, 0.9, 0.99),
    "gamma": (1e-8, 1e-7, 1e-6, 3e-6, 1e-5),
    "tau": (10.0, 50.0, 200.0, 1000.0, 3000.0),
}
FIGURE3_ATTACKS = ("trojan_sq", "trojan_wm", "badnets", "l0_inv")


@dataclass(frozen=True)
class Point:
    """A value at `x`: `path` says where in the cell's result it stands."""

    x: float
    cell: Cell
    path: tuple[str | int, ...]


@dataclass(frozen=True)
class Panel:
    """Lines, by their labels, over one x axis; y is in percent."""

    title: str
    x: str
    lines: Mapping[str, tuple[Point, ...]]
    logarithmic: bool = False


@dataclass(frozen=True)
class Plot:
    """A figure of the paper; its cells are those of seed 0 and all test images."""

    title: str
    panels: tuple[Panel, ...]


def figure1(arch: str, attack: str) -> Plot:
    """Where ANP fails: with few images, and on a small network."""
    networks = {name: NETWORKS[name] for name in ("resnet18", "small_vgg")}

    def shares(net: str, n: int | None) -> tuple[Point, ...]:
        cell = Cell(net, attack, n, "anp_perturbed")
        return tuple(Point(number, cell, ("shares", number)) for number in range(CLASSES))

    def curve(net: str, name: str) -> tuple[Point, ...]:
        cell = Cell(net, attack, SIZE, "anp_thresholds")
        return tuple(Point(x, cell, ("curve", i, name)) for i, x in enumerate(THRESHOLDS))

    by_size = [(CLASSES if n is ONE_SHOT else n, Cell(arch, attack, n, "anp")) for n in SIZES]
    predictions = "predictions with perturbed neurons"
    return Plot(
        f"Figure 1: failures of ANP, {ATTACKS.get(attack, attack)}",
        (
            Panel(
                f"(a) {predictions}, {NETWORKS.get(arch, arch)}",
                "class",
                {"one-shot" if n is ONE_SHOT else f"n = {n}": shares(arch, n) for n in SIZES},
            ),
            Panel(
                f"(a) after ANP, {NETWORKS.get(arch, arch)}",
                f"n ({CLASSES}: one-shot)",
                _metrics(by_size),
                logarithmic=True,
            ),
            Panel(
                f"(b) {predictions}, n = {SIZE}",
                "class",
                {title: shares(net, SIZE) for net, title in networks.items()},
            ),
            Panel(
                f"(b) after ANP, n = {SIZE}",
                "pruning threshold",
                {
                    f"{title}, {label}": curve(net, name)
                    for net, title in networks.items()
                    for name, label in METRICS.items()
                },
            ),
        ),
    )


def figure2(arch: str, attack: str) -> Plot:
    """AWM's sensitivity to α, γ and τ."""
    return Plot(
        f"Figure 2: hyper-parameters, {ATTACKS.get(attack, attack)}, "
        f"{NETWORKS.get(arch, arch)}, n = {SIZE}",
        tuple(
            Panel(
                _defaults_without(name),
                name,
                _metrics((x, _awm(arch, attack, **{name: x})) for x in values),
                logarithmic=name != "alpha",
            )
            for name, values in SWEEPS.items()
        ),
    )


def figure3(arch: str, attack: str) -> Plot:
    """AWM's sensitivity to τ under four attacks, whatever `attack`."""
    return Plot(
        f"Figure 3: τ, {NETWORKS.get(arch, arch)}, n = {SIZE}",
        tuple(
            Panel(
                label,
                "tau",
                {
                    ATTACKS[one]: tuple(
                        Point(x, _awm(arch, one, tau=x), ("metrics", name)) for x in SWEEPS["tau"]
                    )
                    for one in FIGURE3_ATTACKS
                },
                logarithmic=True,
            )
            for name, label in METRICS.items()
        ),
    )


def _awm(arch: str, attack: str, **settings: float) -> Cell:
    return Cell(arch, attack, SIZE, with_settings("awm", {**DEFAULTS, **settings}))


def _defaults_without(name: str) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in DEFAULTS.items() if key != name)


def _metrics(cells: Iterable[tuple[float, Cell]]) -> dict[str, tuple[Point, ...]]:
    """A line for each metric through these cells."""
    cells = tuple(cells)
    return {
        label: tuple(Point(x, cell, ("metrics", name)) for x, cell in cells)
        for name, label in METRICS.items()
    }


FIGURES: dict[str, Callable[[str, str], Plot]] = {
    "fig1": figure1,
    "fig2": figure2,
    "fig3": figure3,
}
# Of which the attack can be chosen, with the paper's.
ONE_ATTACK = {"fig1": "badnets", "fig2": "trojan_sq"}


def figure_cells(plot: Plot, seeds: int, limit: int | None) -> list[Cell]:
    """All cells of a figure, each once."""
    points = (point for panel in plot.panels for line in panel.lines.values() for point in line)
    places = dict.fromkeys(replace(point.cell, limit=limit) for point in points)
    return [cell for place in places for cell in with_seeds(place, seeds)]


def make_figure(plot: Plot, results: Results, *, seeds: int, limit: int | None) -> dict[str, Any]:
    """A figure as JSON holds it.

    Returns:
        title, measured, and panels: title, x (what it is), logarithmic, and lines: label, x, mean
        and spread (standard deviation over seeds; 0 for one seed), without points and lines of
        which nothing is measured.
    """

    def line(label: str, points: Iterable[Point]) -> dict[str, Any]:
        x, mean, spread = [], [], []
        for point in points:
            cells = with_seeds(replace(point.cell, limit=limit), seeds)
            found = [_read(results[cell], point.path) for cell in cells if cell in results]
            middle, deviation = mean_and_spread([value for value in found if value is not None])
            if middle is not None:
                x.append(point.x)
                mean.append(middle)
                spread.append(deviation or 0.0)
        return {"label": label, "x": x, "mean": mean, "spread": spread}

    return {
        "title": plot.title,
        "measured": describe(figure_cells(plot, seeds, limit), results, limit),
        "panels": [
            {
                "title": panel.title,
                "x": panel.x,
                "logarithmic": panel.logarithmic,
                "lines": [
                    made for made in (line(*item) for item in panel.lines.items()) if made["x"]
                ],
            }
            for panel in plot.panels
        ],
    }


def _read(result: Any, path: tuple[str | int, ...]) -> float | None:
    """None without a backdoor, of which there is no ASR, and of a class that there isn't."""
    try:
        for key in path:
            result = result[key]
    except LookupError:
        return None
    return result


def draw_figure(path: Path, figure: Mapping[str, Any]) -> None:
    """Write what `figure_as_png` draws."""
    write_bytes(path, figure_as_png(figure))


@default_settings()
def figure_as_png(figure: Mapping[str, Any]) -> bytes:
    """Draw what `make_figure` returned, as a PNG file."""
    panels = figure["panels"]
    columns = 2 if len(panels) == 4 else len(panels)
    rows = math.ceil(len(panels) / columns)
    drawing = new_figure(4.6 * columns, 0.8 + 3.2 * rows)
    drawing.suptitle(f"{figure['title']}\n{figure['measured']}", fontsize=9, parse_math=False)
    for position, panel in enumerate(panels, start=1):
        axes = drawing.add_subplot(rows, columns, position)
        for line in panel["lines"]:
            axes.errorbar(
                line["x"],
                line["mean"],
                line["spread"],
                marker="o",
                markersize=3,
                capsize=2,
                linewidth=1.2,
                label=line["label"],
            )
        if panel["logarithmic"]:
            axes.set_xscale("log")
        axes.set_ylim(-3, 103)
        axes.set_title(panel["title"], fontsize=9)
        axes.set_xlabel(panel["x"], fontsize=8)
        axes.set_ylabel("%", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if panel["lines"]:
            axes.legend(fontsize=6)
    return drawn(drawing, dpi=130)
