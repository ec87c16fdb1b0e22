"""The pictures of a report, each as the bytes of a PNG file."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from awm_defense.examination.verdict import Verdict
from awm_defense.files.encoded import as_png
from awm_defense.files.text import escape
from awm_defense.report.drawing import at_whole_numbers, default_settings, drawn, new_figure

# Small images are enlarged by a whole factor to at least this many pixels a side.
SIDE = 256
COLUMNS = 4


def draw_image(image: Tensor) -> bytes:
    """An image (1 or 3,H,W) in [0,1], enlarged without smoothing."""
    pixels = image.detach().float().cpu().clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels = pixels.expand(3, -1, -1).permute(1, 2, 0)
    factor = math.ceil(SIDE / min(pixels.shape[:2]))
    enlarged = np.kron(pixels.numpy(), np.ones((factor, factor, 1), dtype=np.uint8))
    return as_png(enlarged)


def draw_trigger(trigger: Tensor) -> bytes:
    """A recovered trigger Δ (C,H,W): grey is no change, white and black are ±max |Δ|."""
    largest = trigger.detach().abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return draw_image(0.5 + 0.5 * trigger.detach() / largest)


@default_settings()
def draw_margins(verdict: Verdict) -> bytes:
    """One bar a class searched: how strongly its grown trigger leads there."""
    figure = new_figure(10, 3)
    axes = figure.add_subplot()
    searched = verdict.searched.tolist()
    colours = ["#dc2626" if one == verdict.target else "#2563eb" for one in searched]
    axes.bar(range(len(searched)), verdict.margins.float().numpy(), color=colours)
    axes.axhline(verdict.median, linestyle=":", color="grey", label="the median class")
    axes.legend(fontsize=7)
    axes.set_xlabel("class", fontsize=8)
    axes.set_ylabel("margin of the logits", fontsize=8)
    if verdict.screening is None:
        at_whole_numbers(axes.xaxis, most=20)
    else:
        axes.set_xticks(range(len(searched)), searched)
    axes.tick_params(labelsize=7)
    return drawn(figure, dpi=110)


@default_settings()
def draw_masks(masks: Mapping[str, Tensor]) -> bytes:
    """One histogram of mask values in [0,1] per layer, with a logarithmic count."""
    rows = max(1, math.ceil(len(masks) / COLUMNS))
    figure = new_figure(10, 0.4 + 1.7 * rows)
    for position, (name, mask) in enumerate(masks.items(), start=1):
        axes = figure.add_subplot(rows, COLUMNS, position)
        counts = torch.histc(mask.detach().float().cpu(), bins=25, min=0, max=1)
        axes.bar(np.arange(25) / 25, counts.numpy(), width=1 / 25, align="edge", color="#2563eb")
        axes.set_yscale("symlog")
        axes.set_xlim(0, 1)
        title = escape(f"{name} (mean {mask.float().mean():.2f})")
        axes.set_title(title, fontsize=8, parse_math=False)
        axes.tick_params(labelsize=7)
    return drawn(figure, dpi=110)


@default_settings()
def draw_history(history: Sequence[Mapping[str, float]]) -> bytes:
    """How losses, the trigger's L1 norm and the masks moved, one point an epoch."""
    keys = list(dict.fromkeys(key for epoch in history for key in epoch))
    panels = {
        "loss": [key for key in keys if key.endswith("loss")],
        "L1 norm of the trigger": [key for key in keys if key == "trigger_norm"],
        "mean of the masks": [key for key in keys if key.startswith("mask")],
        "accuracy on the images at hand": [key for key in keys if key == "accuracy"],
    }
    panels = {title: lines for title, lines in panels.items() if lines}
    figure = new_figure(10, 3)
    for position, (title, lines) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), position)
        for key in lines:
            values = [epoch.get(key, math.nan) for epoch in history]
            # Points, too: what an epoch alone has makes no line.
            axes.plot(range(1, len(values) + 1), values, ".-", label=key.replace("_", " "))
        if title == "loss":
            # While the trigger is sought its loss is hundreds of times that of the clean images.
            axes.set_yscale("log")
            axes.legend(fontsize=7)
        else:
            axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        axes.set_xlim(0.5, len(history) + 0.5)
        at_whole_numbers(axes.xaxis)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    return drawn(figure, dpi=110)
