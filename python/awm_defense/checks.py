"""What every defense asks of its arguments."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def check_images(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Raise TypeError or ValueError unless these are a model and images with labels for it."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images: expected a floating-point tensor, got {got}")
    if images.dim() != 4 or images.shape[0] == 0:
        raise ValueError(f"images: expected shape (n ≥ 1, c, h, w), got {tuple(images.shape)}")
    if images.min() < 0 or images.max() > 1:
        raise ValueError(
            "images: expected pixel values in [0, 1] (give mean and std for a model fed "
            f"normalised input), got {images.min():.3g} to {images.max():.3g}"
        )
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels: expected an int64 tensor, got {got}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"labels: expected shape ({len(images)},), got {tuple(labels.shape)}")
