"""Sparse triggers: a few pixels, added to images."""

import torch.nn.functional as F
from torch import Tensor

from awm_defense.triggers.family import STEPS, Added
from awm_kernels import l1_project_


class Sparse(Added):
    """A sparse Δ within an L1 ball (AWM paper, Eq. 4.4).

    Steepest descent under the L1 norm on the most promising elements, and the Euclidean
    projection after each step. From large bounds to small, for there are triggers that do nothing
    at all while they are faint. Bounds grow with the number of pixel values; they are those of
    triggers of 13 to 2 saturated pixels of a 32x32 image.
    """

    unit = "L1"
    BOUNDS = (40.0, 10.0, 5.0)
    """For an image of 3·32² values."""
    SHARE = 0.005
    """Of all elements, how many a step changes."""
    CORE = 0.2
    """From which share of its largest change on a pixel belongs to a trigger."""
    AROUND = 3
    """How many pixels around them it may grow over, in an image of 32x32."""

    def __init__(self, images: Tensor, forbidden: Tensor | None = None) -> None:
        """`forbidden` elements, bool (c,h,w), stay as they are."""
        super().__init__(images)
        self.forbidden = forbidden
        self.bounds = tuple(self.scaled(bound) for bound in self.BOUNDS)

    def scaled(self, bound: float) -> float:
        """A bound for images of 3·32² values, for these."""
        return bound * self.like.numel() / (3 * 32 * 32)

    def step(self, parameters: Tensor, grad: Tensor, bound: float) -> Tensor:
        if self.forbidden is not None:
            grad = grad.masked_fill(self.forbidden, 0)
        slope = grad.flatten(1)
        some = max(1, int(self.SHARE * slope.shape[1]))
        least = slope.abs().topk(some, dim=1).values[:, -1:]
        direction = slope.sign() * (slope.abs() >= least)
        direction = direction / direction.abs().sum(1, keepdim=True).clamp(min=1)
        moved = parameters - 2.5 / STEPS * bound * direction.view_as(parameters)
        return l1_project_(moved.contiguous(), bound, batched=True)

    def farthest(self, found: Tensor) -> Tensor:
        size = found.abs().amax(0)
        reach = max(1, round(self.AROUND * min(size.shape) / 32))
        core = (size > self.CORE * size.max()).to(found)
        return F.max_pool2d(core[None], 2 * reach + 1, 1, reach).expand_as(found)
