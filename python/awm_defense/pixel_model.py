"""A classifier as the defense sees it: pixels in, logits out."""

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from awm_defense.networks.logits import Pick, Reading
from awm_defense.networks.plain import check_model, plain_copy, whole_dtype
from awm_defense.portions import Portions, is_of_memory

Stat = float | Sequence[float] | Tensor | None
LARGEST = 1e6
"""Of mean and std, and of 1 / std: what comes of it fits into float32."""
ROUNDING = 1e-5
"""By which pixels may lie outside of [0, 1]: what resizing in float32 makes of them."""
TAKES = "expected one that takes images of shape"
"""So begins the error of a network that does not run."""


class PixelModel:
    """A model with its normalisation, device and dtype, all of which are checked here.

    Args:
        model: the network, from images (n, c, h, w) to an output that holds logits (n, classes);
            it stays as it is.
        images: those it is for, (n, c, h, w), floating point in [0, 1].
        mean, std: for a model fed (pixel − mean) / std: a number, or one a channel; both or
            neither.
        device: where to work; default: where the model is.
        logits: from what the model returns to logits; default: they are looked for.

    Attributes:
        home, device: where the model is, and where to work.
        dtype: of its parameters.
        normalise: the module that makes of pixels what the model is fed.
        read: from what the model returns to logits.
        channels_last: whether the model takes images in that memory format, known of a copy.
        notes: what a copy does otherwise than the model.
        portions: how many images go through it, and through its copies, at a time.

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
        logits: Pick | None = None,
    ) -> None:
        check_model(model)
        check_images("images", images)
        first = next(model.parameters(), None)
        self.model = model
        self.home = torch.device("cpu") if first is None else first.device
        self.device = self.home if device is None else find_device("device", device)
        self.dtype = images.dtype if first is None else first.dtype
        self.portions = Portions()
        self.normalise = Normalise(mean, std, images.shape[1]).to(self.device, self.dtype)
        self.read = Reading(logits)
        self.channels_last = True
        self.notes: list[str] = []

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, c, h, w) in [0, 1], all on the device."""
        fed = self.normalise(images.to(self.dtype))
        found = self.portions(lambda part: self.read(self.model(part)), fed)
        return check_shape(found, len(images))

    def take(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images, which were checked above, and their labels int64 (n,), on the device."""
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
            got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
            raise TypeError(f"labels: expected an int64 tensor, got {got}")
        if labels.shape != images.shape[:1]:
            raise ValueError(f"labels: expected shape ({len(images)},), got {tuple(labels.shape)}")
        return images.detach().to(self.device, self.dtype), labels.to(self.device)

    def copy(self, images: Tensor) -> Self:
        """One to work with: a plain copy on the device, frozen, in eval mode and float32.

        In float64 where the model has that. Wrappers are gone, and weights that are computed in
        every forward are plain parameters (`awm_defense.networks.plain.plain_copy`).

        Args:
            images: some that it is for, on which the copy is tried.

        Raises:
            TypeError, ValueError: the model can't be copied, run, or differentiated.
        """
        made = copy.copy(self)
        made.model = plain_copy(self.model)
        made.dtype = whole_dtype(made.model)
        made.model.to(self.device, made.dtype).eval().requires_grad_(False)
        made.normalise = copy.deepcopy(self.normalise).to(made.dtype)
        made.read, made.notes = copy.copy(self.read), []
        first = images[0].detach().to(self.device, made.dtype)
        with torch.enable_grad():
            # And its negative, of which nothing but probabilities will sum to 1 as well.
            found = made.settle(torch.stack([first, 1 - first]).requires_grad_())
        if not found.requires_grad:
            raise ValueError(
                "model: expected logits that autograd follows back to the images, got some that it "
                "does not (no_grad, detach or argmax in its forward?)"
            )
        return made

    def settle(self, images: Tensor) -> Tensor:
        """Run the network once, and keep what that shows: how its output is to be read.

        Args:
            images: a few, (n, c, h, w), on the device.

        Returns:
            Their logits.

        Raises:
            TypeError, ValueError: it does not run, or returns no logits.
        """
        # A clone, since some networks change what they are fed in place.
        fed = self.normalise(images.to(self.dtype)).clone()
        try:
            try:
                output = self.model(fed.contiguous(memory_format=torch.channels_last))
            except RuntimeError as error:
                if is_of_memory(error):
                    raise
                output = self.model(fed.contiguous())
                self.channels_last = False
                self.notes.append("the model does not take channels_last input")
        except Exception as error:  # whatever the model's own code raises
            if is_of_memory(error):
                raise
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(
                f"model: {TAKES} (n, {_shape(images[0])}) in "
                f"{images.dtype}, got {type(error).__name__}: {reason[0]}"
            ) from error
        self.notes += self.read.settle(output)
        return check_shape(self.read(output), len(images))


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
        self.register_buffer("mean", _stat("mean", mean, channels, -LARGEST))
        self.register_buffer("std", _stat("std", std, channels, 1 / LARGEST))

    def forward(self, images: Tensor) -> Tensor:
        if self.mean is None or self.std is None:
            return images
        return (images - self.mean) / self.std


def find_device(argument: str, name: str | torch.device) -> torch.device:
    """The device called `name`; ValueError when this machine has none of that name."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError, ImportError) as error:
        # Of PyTorch's paragraph the first sentence.
        reason = str(error).strip().splitlines()[0].partition(". ")[0]
        raise ValueError(f"{argument}: can't use {str(name)!r}: {reason}") from error
    if device.type == "meta":
        raise ValueError(f"{argument}: can't use 'meta', which holds no numbers")
    return device


def check_shape(logits: Any, images: int) -> Tensor:
    """`logits`; raises TypeError or ValueError unless they are a model's for so many images."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"model: expected logits, a tensor, got {type(logits).__name__}")
    if logits.dim() != 2 or len(logits) != images or logits.shape[1] == 0:
        raise ValueError(
            f"model: expected logits ({images}, classes), got shape {tuple(logits.shape)}"
        )
    return logits


def check_logits(logits: Any, labels: Tensor) -> Tensor:
    """`logits`; raises TypeError or ValueError unless they are a model's for labelled images."""
    logits = check_shape(logits, len(labels))
    check_labels(labels, logits.shape[1])
    return check_finite(logits)


def check_finite(logits: Tensor) -> Tensor:
    """`logits`; raises ValueError where they hold NaN or infinity: no class can be told from it."""
    if not logits.isfinite().all():
        raise ValueError("model: expected finite logits for the images, got NaN or infinity")
    return logits


def check_labels(labels: Tensor, classes: int) -> None:
    """Raise ValueError where a label is none of so many classes."""
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"labels: expected classes from 0 to {classes - 1}, "
            f"got {labels.min()} to {labels.max()}"
        )


def check_images(argument: str, images: Tensor) -> None:
    """Raise TypeError or ValueError unless all are images (n, c, h, w), floating point in [0, 1].

    `argument` is what they are called in the error.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"{argument}: expected a floating-point tensor, got {got}")
    if images.layout != torch.strided or images.is_meta:
        kind = "one on meta" if images.is_meta else images.layout
        raise TypeError(f"{argument}: expected a dense tensor, got {kind}")
    if images.dim() != 4 or images.numel() == 0:
        raise ValueError(f"{argument}: expected shape (n ≥ 1, c, h, w), got {tuple(images.shape)}")
    low, high = images.aminmax()  # without a copy; NaN where one is
    if not (low.isfinite() and high.isfinite()):
        raise ValueError(f"{argument}: expected finite values, got NaN or infinity")
    if low < -ROUNDING or high > 1 + ROUNDING:
        hint = "leave out Normalize, give mean and std instead"
        if low >= 0 and 2 < high <= 255:
            hint = "divide by 255"
        raise ValueError(
            f"{argument}: expected pixel values in [0, 1] ({hint}), got {low:.3g} to {high:.3g}"
        )


def _shape(image: Tensor) -> str:
    return ", ".join(map(str, image.shape))


def _stat(name: str, value: Stat, channels: int, least: float) -> Tensor | None:
    """One number or one a channel, as float64 (1, c or 1, 1, 1)."""
    if value is None:
        return None
    try:
        # A clone: one made under inference_mode can't be worked with outside of it.
        stat = torch.as_tensor(value, dtype=torch.float64).detach().cpu().reshape(1, -1, 1, 1)
        stat = stat.clone()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        got = type(value).__name__
        raise TypeError(f"{name}: expected one number or one a channel, got {got}") from None
    if stat.shape[1] not in (1, channels):
        raise ValueError(
            f"{name}: expected one number or one a channel, {channels}, got {stat.shape[1]}"
        )
    if not stat.isfinite().all():
        raise ValueError(f"{name}: expected finite numbers, got {value}")
    if stat.min() < least or stat.max() > LARGEST:
        raise ValueError(f"{name}: expected numbers from {least:g} to {LARGEST:g}, got {value}")
    return stat
