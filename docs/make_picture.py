"""Make the README's picture: python docs/make_picture.py REPORT_DIR docs/demo.png

REPORT_DIR is the folder that `awm demo` wrote.
"""

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

PICTURES = {
    "triggered.png": "a digit with the\nattacker's trigger",
    "trigger.png": "what the defense\nrecovers (grey: none)",
}
METRICS = {"acc": "accuracy", "asr": "attack success"}
COLOURS = {"before": "#94a3b8", "after": "#2563eb"}


def main(report_dir: Path, out: Path) -> None:
    """Draw two pictures and a bar chart of ACC and ASR before and after, side by side."""
    report = json.loads((report_dir / "report.json").read_text(encoding="utf-8"))
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 2))
    for panel, (name, title) in zip(axes, PICTURES.items(), strict=False):
        with Image.open(report_dir / name) as picture:
            panel.imshow(np.asarray(picture), interpolation="nearest")
        panel.set_title(title, fontsize=10)
        panel.set_axis_off()

    chart = axes[-1]
    places = np.arange(len(METRICS))
    for shift, (when, colour) in zip((-0.2, 0.2), COLOURS.items(), strict=True):
        values = [report[when][key] for key in METRICS]
        bars = chart.bar(places + shift, values, width=0.36, color=colour, label=when)
        chart.bar_label(bars, fmt="%.1f %%", fontsize=9, padding=2)
    chart.set_xticks(places, METRICS.values())
    chart.set_ylim(0, 118)
    chart.set_yticks([])
    chart.spines[["top", "right", "left"]].set_visible(False)
    chart.legend(frameon=False, ncols=2, loc="upper right", bbox_to_anchor=(1, 1.12), fontsize=9)
    images, seconds = report["images"], report["seconds"]
    chart.set_title(f"{images} clean images, {seconds:.0f} s", fontsize=10, loc="left")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
