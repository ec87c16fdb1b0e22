"""How a network wants its images: their size, colours and normalisation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Of the shorter side; a smaller share of a photograph is a few pixels.
LEAST_CROP = 0.01
# Pixels of a whole picture in its new size. A picture of one row would get a million columns.
MOST_RESIZED = 2048 * 2048
# Where the quotient is meant to be whole: 224 / (224 / 235).
ROUNDING = 1e-6


@dataclass(frozen=True)
class Preparation:
    """What is done to a picture before a network sees it.

    Attributes:
        size: (h, w) of what the network takes; None leaves pictures as they are.
        crop: the share of the shorter side that is kept, from the middle.
        squash: fit both sides, whatever the picture's shape.
        filter: a key of `FILTERS`.
        grey: one channel instead of three.
        mean, std: one number a channel; None where the network takes pixels in [0, 1].
    """

    size: tuple[int, int] | None = None
    crop: float = 1.0
    squash: bool = False
    filter: str = "bilinear"
    grey: bool = False
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise ValueError(f"filter: expected one of {', '.join(FILTERS)}, got {self.filter!r}")
        if not LEAST_CROP <= self.crop <= 1:
            raise ValueError(f"crop: expected a share from {LEAST_CROP} to 1, got {self.crop}")

    @property
    def channels(self) -> int:
        """Of an image."""
        return 1 if self.grey else 3

    def apply(self, picture: Image.Image) -> Tensor:
        """A picture as uint8 (c, h, w)."""
        made = self._fitted(picture.convert("L" if self.grey else "RGB"))
        pixels = np.array(made)
        return torch.from_numpy(pixels[None] if self.grey else pixels.transpose(2, 0, 1).copy())

    def _fitted(self, picture: Image.Image) -> Image.Image:
        if self.size is None:
            return picture
        height, width = self.size
        # The smallest picture of its own shape that holds the frame of which a part is kept.
        frame = [math.floor(side / self.crop + ROUNDING) for side in (width, height)]
        scale = max(frame[0] / picture.width, frame[1] / picture.height)
        wide, high = (max(1, round(side * scale)) for side in picture.size)
        if self.squash:
            wide, high = frame
        left, top = round((wide - width) / 2), round((high - height) / 2)
        if wide * high > MOST_RESIZED:
            # The same, of the kept part alone.
            across, down = picture.width / wide, picture.height / high
            right, bottom = (left + width) * across, (top + height) * down
            box = (
                left * across,
                top * down,
                min(right, picture.width),
                min(bottom, picture.height),
            )
            return picture.resize((width, height), FILTERS[self.filter], box)
        resized = picture.resize((wide, high), FILTERS[self.filter])
        return resized.crop((left, top, left + width, top + height))

    def __str__(self) -> str:
        """As a report says it."""
        parts = ["as they are"]
        if self.size is not None:
            kept = f"the middle {self.crop:.3g} kept"
            if self.squash:
                kept = "squashed" if self.crop == 1 else f"squashed, {kept}"
            parts = [f"{self.size[0]}x{self.size[1]}, {kept}, {self.filter}"]
        parts += ["grey"] if self.grey else []
        for name, values in (("mean", self.mean), ("std", self.std)):
            parts += [f"{name} {' '.join(f'{value:.3g}' for value in values)}"] if values else []
        return "; ".join(parts)
