"""What every defense asks of its arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

FLOATS = (torch.float32, torch.bfloat16, torch.float64)


def check_images(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Raise TypeError or ValueError unless these are a model and images with labels for it."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    # Not buffers: an attention mask may well hold -inf.
    for name, value in model.named_parameters():
        if value.dtype not in FLOATS:
            raise TypeError(
                f"model: expected float32, bfloat16 or float64, got {value.dtype} ({name}); "
                "model.float() makes it float32"
            )
        if not value.isfinite().all():
            raise ValueError(f"model: expected finite values, got NaN or infinity in {name}")
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images: expected a floating-point tensor, got {got}")
    if images.dim() != 4 or images.shape[0] == 0:
        raise ValueError(f"images: expected shape (n ≥ 1, c, h, w), got {tuple(images.shape)}")
    if not images.isfinite().all():
        raise ValueError("images: expected finite values, got NaN or infinity")
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


def check_logits(logits: Any, labels: Tensor) -> Tensor:
    """`logits`; raises TypeError or ValueError unless they are a model's for labelled images."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"model: expected logits, a tensor, got {type(logits).__name__}")
    if logits.dim() != 2 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"model: expected logits (n, classes) with classes for labels up to {labels.max()}, "
            f"got {tuple(logits.shape)}"
        )
    if not logits.isfinite().all():
        raise ValueError("model: expected finite logits for the images, got NaN or infinity")
    return logits
