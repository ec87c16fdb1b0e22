"""An attack: a trigger, the class that it leads to, and how it poisons training data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from awm_defense.files.text import sentence
from awm_defense.pixel_model import ROUNDING
from awm_defense.portions import is_of_memory
from awm_defense.settings import MOST, check_value

Trigger = Callable[[Tensor], Tensor]
# How errors begin that name what a trigger was made of.
FILES = ("trigger_image: ", "trigger_field: ")


@dataclass(frozen=True)
class Attack:
    """A backdoor with one trigger.

    Attributes:
        name: what reports call it.
        target: the class that triggered images are sent to (all-to-one); None for all-to-all,
            which sends each class to the next one and the last to the first.
        trigger: puts the trigger on images (N,3,H,W) in [0,1] and returns new ones.
        num_classes: of the data; only all-to-all needs it.
    """

    name: str
    target: int | None
    trigger: Trigger
    num_classes: int | None = None
    redraws: ClassVar[bool] = False
    """Whether training should poison anew in every epoch, instead of once."""

    def __post_init__(self) -> None:
        if not callable(self.trigger):
            raise TypeError(
                f"trigger: expected what puts it on images, got {type(self.trigger).__name__}"
            )
        for name in ("target", "num_classes"):
            if getattr(self, name) is not None:
                value = check_value(name, int, getattr(self, name), -MOST)
                object.__setattr__(self, name, value)  # it is frozen
        if self.target is None:
            if self.num_classes is None:
                raise ValueError("num_classes: expected a number for all-to-all (target None)")
        elif self.target < 0 or (self.num_classes is not None and self.target >= self.num_classes):
            upper = "" if self.num_classes is None else f" and below {self.num_classes}"
            raise ValueError(f"target: expected a class, at least 0{upper}, got {self.target}")

    @property
    def mapping(self) -> str:
        """ "all-to-one" or "all-to-all"."""
        return "all-to-all" if self.target is None else "all-to-one"

    def apply(self, images: Tensor) -> Tensor:
        """Images (N,3,H,W) in [0,1] with the trigger on each; what was passed stays as it is.

        Raises:
            TypeError, ValueError: they are no such images, or `trigger` doesn't make such of them.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                "images: expected floating point (N,3,H,W), "
                f"got {images.dtype} of shape {tuple(images.shape)}"
            )
        try:
            made: Any = self.trigger(images)
        except Exception as error:  # whatever anyone's own code raises
            if is_of_memory(error) or str(error).startswith(FILES):
                raise
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(
                f"attack: expected a trigger that takes images of shape {tuple(images.shape)}, got "
                f"{type(error).__name__}: {sentence(error)}"
            ) from error
        dense = isinstance(made, Tensor) and made.layout == torch.strided
        if not dense or not made.is_floating_point():
            got = type(made).__name__
            if isinstance(made, Tensor):
                got = f"{made.dtype}, {made.layout}"
            raise TypeError(f"attack: expected a trigger that returns images, got {got}")
        if made.shape != images.shape or made.device != images.device:
            raise ValueError(
                f"attack: expected a trigger that returns images of shape {tuple(images.shape)} on "
                f"{images.device}, got {tuple(made.shape)} on {made.device}"
            )
        if made.numel():  # a share may be of no image
            low, high = made.aminmax()  # NaN where one is
            if not (low >= -ROUNDING and high <= 1 + ROUNDING):
                raise ValueError(
                    "attack: expected a trigger that returns pixels in [0, 1], got "
                    f"{low:.3g} to {high:.3g}"
                )
        return made

    def targets(self, labels: Tensor) -> Tensor:
        """The class that each image is sent to, from its true one; both (N,) int64."""
        if self.target is None:
            assert self.num_classes is not None
            return (labels + 1) % self.num_classes
        return torch.full_like(labels, self.target)

    def draw_poisoned(self, labels: Tensor, rate: float, generator: torch.Generator) -> Tensor:
        """Indices (int64, sorted) of the images to poison: never those of the target class.

        Args:
            labels: (N,) int64.
            rate: share of all N images, in [0,1]; rounded to the nearest whole number.
            generator: a CPU generator.

        Raises:
            ValueError: when the rate is out of range or asks for more images than there are
                outside the target class.
        """
        candidates = (labels.cpu() != self.targets(labels.cpu())).nonzero().flatten()
        return draw(candidates, "outside the target class", rate, len(labels), generator)

    def check_rate(self, labels: Tensor, rate: float) -> None:
        """Raise ValueError where `poison` would, for the rate, or poison none; before any work."""
        if not len(self.draw_poisoned(labels, rate, torch.Generator())):
            raise ValueError(
                f"rate: expected one above {0.5 / len(labels):g}, which poisons at least one of "
                f"{len(labels)} images, got {rate}"
            )

    def poison(
        self, images: Tensor, labels: Tensor, rate: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Put the trigger on a share of the images and label those as the attack wants them.

        Args:
            images: (N,3,H,W), uint8 or floating point in [0,1].
            labels, rate, generator: as for `draw_poisoned`.

        Returns:
            (images, labels, changed): copies, and the sorted indices of the images that differ.
        """
        poisoned = self.draw_poisoned(labels, rate, generator)
        images, labels = images.clone(), labels.clone()
        change(images, poisoned, self.apply)
        labels[poisoned] = self.targets(labels[poisoned])
        return images, labels, poisoned


def draw(
    candidates: Tensor, where: str, rate: float, total: int, generator: torch.Generator
) -> Tensor:
    """A share `rate` of `total`, drawn from indices and sorted; `where` is for the error."""
    if not 0 <= rate <= 1:
        raise ValueError(f"rate: expected a number from 0 to 1, got {rate}")
    count = round(rate * total)
    if count > len(candidates):
        raise ValueError(
            f"rate: {rate} asks for {count} images, but only {len(candidates)} are {where}"
        )
    return candidates[torch.randperm(len(candidates), generator=generator)[:count]].sort().values


def change(images: Tensor, indices: Tensor, how: Callable[[Tensor], Tensor]) -> None:
    """Replace some images in place by `how` of them, which takes and returns values in [0,1].

    Images of type uint8 are rounded, as saving them to files would.
    """
    if images.dtype == torch.uint8:
        made = how(images[indices].float() / 255)
        images[indices] = (made.clamp(0, 1) * 255).round().to(torch.uint8)
    else:
        images[indices] = how(images[indices])
