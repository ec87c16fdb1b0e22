"""An attack: a trigger, and the class that it leads to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Attack:
    """A backdoor with one trigger and one target.

    Attributes:
        name: what reports call it.
        target: the class that triggered images are sent to.
        trigger: puts the trigger on images (N,3,H,W) in [0,1] and returns new ones.
    """

    name: str
    target: int
    trigger: Callable[[Tensor], Tensor]

    def apply(self, images: Tensor) -> Tensor:
        """Images (N,3,H,W) in [0,1] with the trigger on each; what was passed stays as it is."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                "images: expected floating point (N,3,H,W), "
                f"got {images.dtype} of shape {tuple(images.shape)}"
            )
        return self.trigger(images)

    def choose(self, labels: Tensor, rate: float, generator: torch.Generator) -> Tensor:
        """Indices (int64, sorted) of the images to poison: never those of the target class.

        Args:
            labels: (N,) int64.
            rate: share of all N images, in [0,1]; rounded to the nearest whole number.
            generator: a CPU generator.

        Raises:
            ValueError: when the rate is out of range or asks for more images than there are
                outside the target class.
        """
        if not 0 <= rate <= 1:
            raise ValueError(f"rate: expected a number from 0 to 1, got {rate}")
        candidates = (labels.cpu() != self.target).nonzero().flatten()
        count = round(rate * len(labels))
        if count > len(candidates):
            raise ValueError(
                f"rate: {rate} asks for {count} images, "
                f"but only {len(candidates)} are outside the target class {self.target}"
            )
        chosen = torch.randperm(len(candidates), generator=generator)[:count]
        return candidates[chosen].sort().values

    def poison(
        self, images: Tensor, labels: Tensor, rate: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Put the trigger on a share of the images and call those the target class.

        Args:
            images: (N,3,H,W) in [0,1].
            labels, rate, generator: as for `choose`.

        Returns:
            (images, labels, poisoned): copies, and the sorted indices of what was changed.
        """
        poisoned = self.choose(labels, rate, generator)
        images, labels = images.clone(), labels.clone()
        images[poisoned] = self.apply(images[poisoned])
        labels[poisoned] = self.target
        return images, labels, poisoned
