"""A classifier as the defense sees it: pixels in, logits out."""

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
Stat = float | Sequence[float] | Tensor | None


class PixelModel:
    """A model with its normalisation, device and dtype, all of which are checked here.

    Args:
        model: the network, (n, c, h, w) to logits (n, classes); it stays as it is.
        images: those it is for, (n, c, h, w), floating point in [0, 1].
        mean, std: for a model fed (pixel − mean) / std: a number, or one a channel; both or
            neither.
        device: where to work; default: where the model is.

    Attributes:
        home, device: where the model is, and where to work.
        dtype: of its parameters.
        normalise: the module that makes of pixels what the model is fed.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        *,
        mean: Stat = None,
        std: Stat = None,
        device: str | torch.device | None = None,
    ) -> None:
        _check_model(model)
        _check_images(images)
        first = next(model.parameters(), None)
        self.model = model
        self.home = torch.device("cpu") if first is None else first.device
        self.device = self.home if device is None else find_device("device", device)
        self.dtype = images.dtype if first is None else first.dtype
        self.normalise = Normalise(mean, std, images.shape[1]).to(self.device, self.dtype)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, c, h, w) in [0, 1], all on the device."""
        logits: Tensor = self.model(self.normalise(images.to(self.dtype)))
        return logits

    def take(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images, which were checked above, and their labels int64 (n,), on the device."""
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
            got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
            raise TypeError(f"labels: expected an int64 tensor, got {got}")
        if labels.shape != images.shape[:1]:
            raise ValueError(f"labels: expected shape ({len(images)},), got {tuple(labels.shape)}")
        return images.detach().to(self.device, self.dtype), labels.to(self.device)

    def copy(self) -> Self:
        """One on the device whose model is a copy, in eval mode and frozen."""
        made = copy.copy(self)
        made.model = copy.deepcopy(self.model).to(self.device).eval().requires_grad_(False)
        return made


class Normalise(nn.Module):
    """(pixel − mean) / std, or nothing where neither is given.

    Args:
        mean, std: as `PixelModel` takes them.
        channels: of the images.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, mean: Stat, std: Stat, channels: int) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise ValueError(f"mean, std: expected both or neither, got {mean} and {std}")
        self.register_buffer("mean", _stat("mean", mean, channels))
        self.register_buffer("std", _stat("std", std, channels))
        if self.std is not None and not (self.std > 0).all():
            raise ValueError(f"std: expected numbers > 0, got {std}")

    def forward(self, images: Tensor) -> Tensor:
        if self.mean is None or self.std is None:
            return images
        return (images - self.mean) / self.std


def find_device(argument: str, name: str | torch.device) -> torch.device:
    """The device called `name`; ValueError when this machine has none of that name."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{argument}: can't use {str(name)!r}: {reason}") from error
    return device


def check_logits(logits: Any, labels: Tensor) -> Tensor:
    """`logits`; raises TypeError or ValueError unless they are a model's for labelled images."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"model: expected logits, a tensor, got {type(logits).__name__}")
    if logits.dim() != 2:
        raise ValueError(f"model: expected logits (n, classes), got {tuple(logits.shape)}")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"labels: expected classes from 0 to {logits.shape[1] - 1}, "
            f"got {labels.min()} to {labels.max()}"
        )
    if not logits.isfinite().all():
        raise ValueError("model: expected finite logits for the images, got NaN or infinity")
    return logits


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    # Not buffers: an attention mask may well hold -inf.
    for name, value in model.named_parameters():
        if value.dtype not in DTYPES:
            raise TypeError(
                f"model: expected float32, bfloat16 or float64, got {value.dtype} ({name}); "
                "model.float() makes it float32"
            )
        if not value.isfinite().all():
            raise ValueError(f"model: expected finite values, got NaN or infinity in {name}")


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images: expected a floating-point tensor, got {got}")
    if images.dim() != 4 or images.shape[0] == 0:
        raise ValueError(f"images: expected shape (n ≥ 1, c, h, w), got {tuple(images.shape)}")
    if not images.isfinite().all():
        raise ValueError("images: expected finite values, got NaN or infinity")
    if images.min() < 0 or images.max() > 1:
        bytes_like = images.min() >= 0 and 2 < images.max() <= 255
        hint = (
            "divide by 255" if bytes_like else "give mean and std for a model fed normalised input"
        )
        raise ValueError(
            f"images: expected pixel values in [0, 1] ({hint}), "
            f"got {images.min():.3g} to {images.max():.3g}"
        )


def _stat(name: str, value: Stat, channels: int) -> Tensor | None:
    """One number or one a channel, as float64 (1, c or 1, 1, 1)."""
    if value is None:
        return None
    stat = torch.as_tensor(value, dtype=torch.float64).cpu().reshape(1, -1, 1, 1)
    if stat.shape[1] not in (1, channels):
        raise ValueError(
            f"{name}: expected one number or one a channel, {channels}, got {stat.shape[1]}"
        )
    if not stat.isfinite().all():
        raise ValueError(f"{name}: expected finite numbers, got {value}")
    return stat
