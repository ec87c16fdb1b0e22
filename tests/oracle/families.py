"""The sorts of small triggers: how one starts, changes images, takes a step, and may grow.

Norms are for images of 3x32x32 and follow the size of the images at hand.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

STEPS = 20
STEP = 2.5 / STEPS
"""Length of a step, as a share of the bound."""
FULL = 3 * 32 * 32


class Added:
    """x + Δ, clipped to [0, 1]; Δ is (c, h, w)."""

    def __init__(self, images: Tensor) -> None:
        self.shape = images.shape[1:]
        self.values = images[0].numel()

    def start(self, generator: Generator) -> Tensor:
        return torch.zeros(self.shape, dtype=torch.float64)

    def apply(self, images: Tensor, trigger: Tensor) -> Tensor:
        return (images + trigger).clamp(0, 1)

    def limits(self, found: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """What each element may grow to: so far from 0, and never past saturation of all images."""
        farthest = self.farthest(found)
        return -farthest.minimum(images.amax(0)), farthest.minimum(1 - images.amin(0))

    def farthest(self, found: Tensor) -> Tensor:
        raise NotImplementedError


class Sparse(Added):
    """‖Δ‖₁ within a bound: steps on the 0.5 % of elements with the steepest slope, projected."""

    unit = "L1"

    def __init__(self, images: Tensor, forbidden: Tensor | None = None) -> None:
        """`forbidden` elements, bool (c, h, w), stay 0."""
        super().__init__(images)
        self.bounds = [bound * self.values / FULL for bound in (40.0, 10.0, 5.0)]
        self.allowed = 1.0 if forbidden is None else ~forbidden

    def step(self, trigger: Tensor, slope: Tensor, bound: float) -> Tensor:
        slope = slope * self.allowed
        count = max(1, int(0.005 * self.values))
        steepest = slope.abs() >= slope.abs().flatten().topk(count).values[-1]
        direction = slope.sign() * steepest
        direction = direction / direction.abs().sum().clamp(min=1)
        return project_l1(trigger - STEP * bound * direction, bound)

    def farthest(self, found: Tensor) -> Tensor:
        """1 on pixels within 3 of those with more than a fifth of the largest change, 0 elsewhere."""
        change = found.abs().amax(0)
        core = (change > 0.2 * change.max()).to(found)
        reach = max(1, round(3 * min(change.shape) / 32))
        return F.max_pool2d(core[None], 2 * reach + 1, 1, reach).expand_as(found)


class Faint(Added):
    """‖Δ‖₂ within a bound, all over the image: steepest descent."""

    unit = "L2"

    def __init__(self, images: Tensor) -> None:
        super().__init__(images)
        self.bounds = [(self.values / FULL) ** 0.5]

    def step(self, trigger: Tensor, slope: Tensor, bound: float) -> Tensor:
        moved = trigger - STEP * bound * slope / slope.norm()
        return moved * (bound / moved.norm()).clamp(max=1)

    def farthest(self, found: Tensor) -> Tensor:
        return 3 * found.abs()


class Warp:
    """A smooth warp: shifts of 4x4 control points in pixels, (2, 4, 4), x first; bicubic between."""

    unit = "pixels"

    def __init__(self, images: Tensor) -> None:
        self.size = images.shape[2:]
        self.bounds = [0.5 * min(self.size) / 32]

    def start(self, generator: Generator) -> Tensor:
        noise = torch.randn(1, 2, 4, 4, generator=generator)[0]
        return 0.2 * self.bounds[0] * noise.double()

    def apply(self, images: Tensor, trigger: Tensor) -> Tensor:
        height, width = self.size
        shift = F.interpolate(trigger[None], self.size, mode="bicubic", align_corners=True)[0]
        # Where each pixel is read from; grid_sample counts from -1 to 1 between the outer edges.
        x = (2 * (torch.arange(width) + 0.5 + shift[0])) / width - 1
        y = (2 * (torch.arange(height)[:, None] + 0.5 + shift[1])) / height - 1
        grid = torch.stack((x, y), dim=-1).expand(len(images), height, width, 2)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    def step(self, trigger: Tensor, slope: Tensor, bound: float) -> Tensor:
        return (trigger - STEP * bound * slope / slope.abs().mean()).clamp(-bound, bound)

    def limits(self, found: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        most = torch.full_like(found, 2.0 * min(self.size) / 32)
        return -most, most


Family = Sparse | Faint | Warp


def families(images: Tensor) -> list[Family]:
    """All of them, in the order in which they are tried."""
    return [Warp(images), Sparse(images), Faint(images)]


def project_l1(point: Tensor, radius: float) -> Tensor:
    """The nearest point (Euclidean) with an L1 norm of at most `radius`.

    All sizes shrink by one threshold: the one that leaves a norm of `radius`.
    """
    sizes = point.abs().flatten().sort(descending=True).values
    if sizes.sum() <= radius:
        return point
    # What the threshold would be if only the largest 1, 2, ... stayed; as many stay as exceed it.
    thresholds = (sizes.cumsum(0) - radius) / torch.arange(1, len(sizes) + 1)
    threshold = thresholds[sizes > thresholds][-1]
    return point.sign() * (point.abs() - threshold).clamp(min=0)
