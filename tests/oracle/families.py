"""The sorts of small triggers: how one starts, changes images, takes a step, and may grow.

Bounds are for images of 3x32x32 and follow the size of the images at hand.
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
        self.nothing = torch.zeros_like(images[0])
        self.size = images[0].numel()

    def start(self, generator: Generator) -> Tensor:
        return self.nothing

    def apply(self, images: Tensor, trigger: Tensor) -> Tensor:
        return (images + trigger).clamp(0, 1)

    def farthest(self, found: Tensor) -> Tensor:
        """How far each element may grow, in either direction."""
        raise NotImplementedError

    def limits(self, found: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """How far each element may grow, down and up: not past what saturates all images."""
        farthest = self.farthest(found)
        return -farthest.minimum(images.amax(0)), farthest.minimum(1 - images.amin(0))


class Sparse(Added):
    """‖Δ‖₁ bounded: steps on the 0.5 % of elements with the largest gradient, then projection."""

    unit = "L1"

    def __init__(self, images: Tensor, forbidden: Tensor | None = None) -> None:
        """`forbidden` elements, bool (c, h, w), stay 0."""
        super().__init__(images)
        self.bounds = [bound * self.size / FULL for bound in (40.0, 10.0, 5.0)]
        self.allowed = True if forbidden is None else ~forbidden

    def step(self, trigger: Tensor, grad: Tensor, bound: float) -> Tensor:
        grad = grad * self.allowed
        count = max(1, int(0.005 * self.size))
        largest = grad.abs() >= grad.abs().flatten().topk(count).values[-1]
        direction = grad.sign() * largest
        direction = direction / direction.abs().sum().clamp(min=1)
        return project_l1(trigger - STEP * bound * direction, bound)

    def farthest(self, found: Tensor) -> Tensor:
        """1 within 3 pixels of those with more than a fifth of the largest change, else 0."""
        change = found.abs().amax(0)
        core = (change > 0.2 * change.max()).to(found)
        reach = max(1, round(3 * min(change.shape) / 32))
        return F.max_pool2d(core[None], 2 * reach + 1, 1, reach).expand_as(found)


class Squares(Sparse):
    """Sparse triggers of squares of pixels, each of one colour: (c, rows, columns) of these."""

    def __init__(self, images: Tensor, side: int, shift: list[int]) -> None:
        super().__init__(images)
        self.side, self.shift = side, shift
        self.height, self.width = images.shape[2:]

    def shown(self, colours: Tensor) -> Tensor:
        """As pixels; what is shifted out on one side comes in on the other."""
        pixels = colours.repeat_interleave(self.side, 1).repeat_interleave(self.side, 2)
        return pixels[:, : self.height, : self.width].roll(self.shift, (1, 2))

    def apply(self, images: Tensor, trigger: Tensor) -> Tensor:
        return super().apply(images, self.shown(trigger))

    def step(self, trigger: Tensor, grad: Tensor, bound: float) -> Tensor:
        self.size = trigger.numel()
        return super().step(trigger, grad, bound)


class Faint(Added):
    """‖Δ‖₂ bounded, over the whole image: steepest descent."""

    unit = "L2"

    def __init__(self, images: Tensor) -> None:
        super().__init__(images)
        self.bounds = [(self.size / FULL) ** 0.5]

    def step(self, trigger: Tensor, grad: Tensor, bound: float) -> Tensor:
        moved = trigger - STEP * bound * grad / grad.norm()
        return moved * (bound / moved.norm()).clamp(max=1)

    def farthest(self, found: Tensor) -> Tensor:
        return 3 * found.abs()


class Warp:
    """A smooth warp: 4x4 control points shift, in pixels, (2, 4, 4), x first; bicubic between."""

    unit = "pixels"

    def __init__(self, images: Tensor) -> None:
        self.size = images.shape[2:]
        self.scale = min(self.size) / 32
        self.bounds = [0.5 * self.scale]

    def start(self, generator: Generator) -> Tensor:
        return 0.2 * self.bounds[0] * torch.randn(2, 4, 4, generator=generator).double()

    def apply(self, images: Tensor, trigger: Tensor) -> Tensor:
        height, width = self.size
        shifts = F.interpolate(trigger[None], self.size, mode="bicubic", align_corners=True)
        # Where each pixel is read, from -1 to 1 between the outer edges. Without a shift that is
        # the middle of a pixel, where gradients of bilinear interpolation jump. Rounding decides on
        # which side of it they are taken, so this has to round as the library does.
        middles = torch.eye(2, 3, dtype=images.dtype)[None]
        grid = F.affine_grid(middles, [1, 1, height, width], align_corners=False)
        grid = grid + shifts.permute(0, 2, 3, 1) * images.new_tensor([2 / width, 2 / height])
        grid = grid.expand(len(images), -1, -1, -1)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    def step(self, trigger: Tensor, grad: Tensor, bound: float) -> Tensor:
        return (trigger - STEP * bound * grad / grad.abs().mean()).clamp(-bound, bound)

    def limits(self, found: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        most = torch.full_like(found, 2 * self.scale)
        return -most, most


Family = Sparse | Faint | Warp


def families(images: Tensor) -> list[Family]:
    """All of them, in the order in which they are tried."""
    return [Warp(images), Sparse(images), Faint(images)]


def project_l1(point: Tensor, radius: float) -> Tensor:
    """The nearest point (Euclidean) with an L1 norm of at most `radius`: all sizes shrink alike."""
    sizes = point.abs().flatten().sort(descending=True).values
    if sizes.sum() <= radius:
        return point
    # By how much they would if the largest 1, 2, ... alone stayed; those stay that are larger.
    shrink = (sizes.cumsum(0) - radius) / torch.arange(1, len(sizes) + 1)
    return point.sign() * (point.abs() - shrink[sizes > shrink][-1]).clamp(min=0)
