"""Faint triggers: a pattern over the whole image, added to it."""

import torch
from torch import Tensor

from awm_defense.triggers.family import STEPS, Added


class Faint(Added):
    """A Δ over the whole image within an L2 ball, by steepest descent."""

    unit = "L2"
    BOUND = 1.0
    """For an image of 3·32² values; it grows with the square root of their number."""
    FARTHEST = 3.0
    """To how many times its size each element may grow."""

    def __init__(self, images: Tensor) -> None:
        super().__init__(images)
        self.bounds: tuple[float, ...] = (self.BOUND * (images[0].numel() / (3 * 32 * 32)) ** 0.5,)

    def step(self, parameters: Tensor, grad: Tensor, bound: float) -> Tensor:
        moved = parameters - 2.5 / STEPS * bound * grad / _norms(grad)
        return moved * (bound / _norms(moved)).clamp(max=1)

    def farthest(self, found: Tensor) -> Tensor:
        return self.FARTHEST * found.abs()


def _norms(triggers: Tensor) -> Tensor:
    """The L2 norm of each, (n,1,1,1), at least a tiny number."""
    norms = torch.linalg.vector_norm(triggers, dim=(1, 2, 3), keepdim=True)
    return norms.clamp(min=torch.finfo(triggers.dtype).tiny)
