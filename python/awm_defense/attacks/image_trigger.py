"""Triggers that are images."""

import torch
from torch import Tensor

MODES = ("add", "replace", "blend")
DEFAULT_OPACITY = 0.2


def eight_bit(image: Tensor) -> Tensor:
    """Values in [0,1] rounded down to what a PNG file holds exactly, multiples of 1/255."""
    # A value that is one already must not fall to the one below for float error.
    return (image * 255 + 1e-3).floor().clamp(0, 255) / 255


class ImageTrigger:
    """A trigger that is an image.

    For images x, trigger t and mask m (each in [0,1]), by mode:

    - "add": clip(x + t)
    - "replace": clip(x·(1 − m) + t); without a mask, m is 1 at each pixel where any channel of
      t is not zero
    - "blend": x + opacity·m·(t − x); without a mask, m is 1

    Args:
        image: t, (3,H,W) floating point.
        mode: "add", "replace" or "blend".
        mask: m, (3,H,W) or (1,H,W); none with "add".
        opacity: from 0 to 1, only with "blend"; 0.2 by default.

    Raises:
        ValueError: for a wrong shape, mode or opacity, or an argument that the mode doesn't use.
    """

    def __init__(
        self,
        image: Tensor,
        *,
        mode: str,
        mask: Tensor | None = None,
        opacity: float | None = None,
    ) -> None:
        if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
            raise ValueError(
                "trigger_image: expected floating point (3,H,W), "
                f"got {image.dtype} of shape {tuple(image.shape)}"
            )
        if mode not in MODES:
            raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
        if mask is not None and mode == "add":
            raise ValueError("trigger_mask: only modes replace and blend use one, got mode add")
        if opacity is not None and mode != "blend":
            raise ValueError(f"opacity: only mode blend uses one, got mode {mode}")
        if mask is not None and mask.shape not in (image.shape, (1, *image.shape[1:])):
            raise ValueError(
                f"trigger_mask: expected shape {tuple(image.shape)} or one channel of it, "
                f"got {tuple(mask.shape)}"
            )
        if mask is None:
            every = torch.ones_like(image[:1])
            mask = (image != 0).any(0, keepdim=True).to(image) if mode == "replace" else every
        self.image = image
        self.mode = mode
        self.mask = mask
        self.opacity = DEFAULT_OPACITY if opacity is None else opacity
        if not 0 <= self.opacity <= 1:
            raise ValueError(f"opacity: expected a number from 0 to 1, got {opacity}")

    @property
    def changes_pixels(self) -> bool:
        """Whether there is an image that it changes, unless its opacity is 0."""
        used = {"add": (self.image,), "blend": (self.mask,), "replace": (self.image, self.mask)}
        return any(bool((one != 0).any()) for one in used[self.mode])

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N,3,H,W) with the trigger, in their own dtype and on their own device."""
        if images.shape[1:] != self.image.shape:
            raise ValueError(
                f"trigger_image: expected {tuple(images.shape[1:])}, the shape of the images, "
                f"got {tuple(self.image.shape)}"
            )
        image, mask = self.image.to(images), self.mask.to(images)
        if self.mode == "add":
            return (images + image).clamp(0, 1)
        if self.mode == "replace":
            return (images * (1 - mask) + image).clamp(0, 1)
        return torch.lerp(images, image, self.opacity * mask)
