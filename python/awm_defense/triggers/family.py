"""What every family of universal triggers can do, many triggers at a time.

A trigger is a tensor of parameters; the first dimension of `parameters` counts triggers.
"""

from typing import Protocol

from torch import Generator, Tensor

STEPS = 20
"""Steps up to each bound; a step is long enough to get there in 2/5 of them."""


class Family(Protocol):
    """A family of image changes, for images of one size."""

    kind: str
    """What a trigger of it does to images: they are "added to" or "warped"."""
    unit: str
    """Of its norm."""
    bounds: tuple[float, ...]
    """Norms to stay within, from large to small."""

    def start(self, count: int, generator: Generator) -> Tensor:
        """Parameters of `count` triggers that do next to nothing."""
        ...

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Images (n,c,h,w) in [0,1], each changed by the trigger in the same row of (n,...)."""
        ...

    def step(self, parameters: Tensor, grad: Tensor, bound: float) -> Tensor:
        """The triggers after one step down the loss, within the bound."""
        ...

    def limits(self, found: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and largest values to which a found trigger (...) may grow.

        Beyond them it would change none of `images` (n,c,h,w) any more.
        """
        ...


class Added:
    """x + Δ, clipped to [0, 1]."""

    kind = "added to"

    def __init__(self, images: Tensor) -> None:
        self.like = images[:1]

    def start(self, count: int, generator: Generator) -> Tensor:
        return self.like.new_zeros(count, *self.like.shape[1:])

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        return (images + parameters).clamp(0, 1)

    def limits(self, found: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        most = self.farthest(found)
        return -most.minimum(images.amax(0)), most.minimum(1 - images.amin(0))

    def farthest(self, found: Tensor) -> Tensor:
        """The largest size to which each element may grow, (c,h,w)."""
        raise NotImplementedError
