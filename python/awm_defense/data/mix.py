"""Patches of one image in another and changes of colour, for a whole batch at once."""

import torch
from torch import Tensor

from awm_defense.data.augment import draw_crops

PATCH = (0.04, 0.4)
"""Smallest and largest share of an image's area in a patch."""


def cutmix(images: Tensor, boxes: Tensor) -> Tensor:
    """Each image with a patch of the one before it (Yun et al., CutMix, ICCV 2019).

    Args:
        images: (N,C,H,W).
        boxes: (4,N): top, left, height, width of the patch in pixels; of height 0 for none.

    Returns:
        A tensor like `images`.
    """
    top, left, height, width = boxes.to(images.device)[..., None]
    row = torch.arange(images.shape[2], device=images.device)
    column = torch.arange(images.shape[3], device=images.device)
    rows = (row >= top) & (row < top + height)
    columns = (column >= left) & (column < left + width)
    patch = (rows[:, :, None] & columns[:, None, :])[:, None]
    return torch.where(patch, images.roll(1, 0), images)


def draw_boxes(shape: torch.Size, generator: torch.Generator, share: float) -> Tensor:
    """A patch for that share of a batch of `shape` (N,C,H,W): float32 (4,N), on the CPU."""
    boxes = draw_crops(shape, generator, scale=PATCH, ratio=(0.5, 2.0))
    boxes[2] *= torch.rand(shape[0], generator=generator) < share
    return boxes


def jitter(images: Tensor, factors: Tensor) -> Tensor:
    """Images of other contrast and colour, in [0, 1].

    Args:
        images: (N,C,H,W) in [0, 1].
        factors: (1+C,N): of the contrast, and of each channel.

    Returns:
        A tensor like `images`.
    """
    contrast, *channels = factors.to(images)
    mean = images.mean((1, 2, 3), keepdim=True)
    contrasted = mean + (images - mean) * contrast.view(-1, 1, 1, 1)
    return (contrasted * torch.stack(channels, 1)[:, :, None, None]).clamp(0, 1)


def draw_factors(shape: torch.Size, generator: torch.Generator, most: float) -> Tensor:
    """Factors from 1 − `most` to 1 + `most`, (1+C,N) on the CPU, for a batch of `shape`."""
    return 1 + most * (2 * torch.rand(1 + shape[1], shape[0], generator=generator) - 1)
