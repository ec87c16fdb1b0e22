"""The pictures of a report, each written as one PNG file."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

# Small images are enlarged by a whole factor to at least this many pixels a side.
SIDE = 256
COLUMNS = 4


def save_image(path: Path, image: Tensor) -> None:
    """Write an image (1 or 3,H,W) in [0,1] as PNG, enlarged without smoothing."""
    pixels = image.detach().float().cpu().clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels = pixels.expand(3, -1, -1).permute(1, 2, 0)
    factor = math.ceil(SIDE / min(pixels.shape[:2]))
    enlarged = np.kron(pixels.numpy(), np.ones((factor, factor, 1), dtype=np.uint8))
    Image.fromarray(enlarged).save(path)


def save_trigger(path: Path, trigger: Tensor) -> None:
    """Write a recovered trigger Δ (C,H,W): grey is no change, white and black are ±max |Δ|."""
    largest = trigger.detach().abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    save_image(path, 0.5 + 0.5 * trigger.detach() / largest)


def save_margins(path: Path, margins: Tensor, target: int) -> None:
    """Write one bar a class: how strongly its grown trigger leads there (classes,)."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    axes = figure.add_subplot()
    values = margins.detach().float().cpu()
    colours = ["#dc2626" if one == target else "#2563eb" for one in range(len(values))]
    axes.bar(range(len(values)), values.numpy(), color=colours)
    axes.axhline(float(values.median()), linestyle=":", color="grey", label="the median class")
    axes.legend(fontsize=7)
    axes.set_xlabel("class", fontsize=8)
    axes.set_ylabel("margin of the logits", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=20, integer=True))
    axes.tick_params(labelsize=7)
    figure.savefig(path, dpi=110)


def save_masks(path: Path, masks: Mapping[str, Tensor]) -> None:
    """Write one histogram of mask values in [0,1] per layer, with a logarithmic count."""
    rows = max(1, math.ceil(len(masks) / COLUMNS))
    figure = Figure(figsize=(10, 0.4 + 1.7 * rows), layout="constrained")
    for position, (name, mask) in enumerate(masks.items(), start=1):
        axes = figure.add_subplot(rows, COLUMNS, position)
        counts = torch.histc(mask.detach().float().cpu(), bins=25, min=0, max=1)
        axes.bar(np.arange(25) / 25, counts.numpy(), width=1 / 25, align="edge", color="#2563eb")
        axes.set_yscale("symlog")
        axes.set_xlim(0, 1)
        axes.set_title(f"{name} (mean {mask.float().mean():.2f})", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.savefig(path, dpi=110)


def save_history(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write how losses, the trigger's L1 norm and the masks moved, one point an epoch."""
    keys = list(dict.fromkeys(key for epoch in history for key in epoch))
    panels = {
        "loss": [key for key in keys if key.endswith("loss")],
        "L1 norm of the trigger": [key for key in keys if key == "trigger_norm"],
        "mean of the masks": [key for key in keys if key.startswith("mask")],
        "accuracy on the images at hand": [key for key in keys if key == "accuracy"],
    }
    panels = {title: lines for title, lines in panels.items() if lines}
    figure = Figure(figsize=(10, 3), layout="constrained")
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
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
