"""Draw the pictures in docs/figures from bench/results: `python -m bench.pictures`."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from awm_defense.reproduce.figures import FIGURES, draw_figure, make_figure
from bench.common import ROOT
from bench.growth_picture import draw_growth
from bench.results import read_run
from bench.tables.erasing import outcome
from bench.tables.study import GROUPS, in_group, study, title

FOLDER = ROOT / "docs" / "figures"
COLOURS = 64


def draw_paper() -> None:
    """Figures 1 to 3 of the paper, on the small VGG."""
    for name, make in FIGURES.items():
        figure = make_figure(make("small_vgg", "badnets"), study("paper"), seeds=1, limit=None)
        draw_figure(FOLDER / f"{name}.png", figure)


def draw_erasing() -> None:
    """Attack success before and after `default`, and the accuracy that it costs."""
    found = [
        outcome(network)
        for group in GROUPS
        for network in in_group(group)
        if network.planted is not None
    ][::-1]
    figure = Figure(figsize=(8, 6))
    left, right = figure.subplots(1, 2, sharey=True)
    names = [title(one.network) for one in found]
    left.barh(names, [one.asr for one in found], color="lightgrey", label="before")
    left.barh(names, [one.left for one in found], color="tab:red", label="after")
    left.set(xlabel="attack success, %")
    left.legend(fontsize=8, loc="center")
    right.barh(names, [one.lost for one in found], color="tab:blue")
    right.set(xlabel="accuracy lost, points")
    figure.suptitle("`default`, one clean image a class, mean over draws", fontsize=10)
    figure.tight_layout()
    figure.savefig(FOLDER / "erasing.png", dpi=90)


def shrink(path: Path) -> None:
    """Fewer colours: a drawing needs no more, and takes a third of the space."""
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(COLOURS)
    small.save(path, optimize=True)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    draw_paper()
    draw_erasing()
    draw_growth(read_run("growth"), FOLDER / "growth.png")
    for path in sorted(FOLDER.glob("*.png")):
        shrink(path)
        print(f"{path.name}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
