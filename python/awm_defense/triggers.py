"""Kinds of universal triggers that are searched for, each many at a time.

A trigger is a tensor of parameters; the first dimension of `parameters` counts triggers.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from awm_kernels import l1_project_

STEPS = 20
"""Steps up to each bound; a step is long enough to get there in 2/5 of them."""


class Kind(Protocol):
    """A kind of trigger."""

    name: str
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


class _Added:
    """x + Δ, clipped to [0, 1]."""

    name = "added to"

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


class Sparse(_Added):
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
        self.bounds = tuple(bound * images[0].numel() / (3 * 32 * 32) for bound in self.BOUNDS)

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


class Dense(_Added):
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


class Warped:
    """A smooth warp of the image, the same for all: a coarse field of shifts (WaNet, ICLR 2021).

    Bounded is the shift of each control point, in pixels; bounds grow with the image.
    """

    name, unit = "warped", "pixels"
    BOUND = 0.5
    """In an image of 32x32."""
    FARTHEST = 2.0
    """How far a trigger may grow, in an image of 32x32."""
    POINTS = 4
    """Control points along each side, bicubic in between."""

    def __init__(self, images: Tensor) -> None:
        self.like = images[:1]
        self.size = images.shape[2:]
        self.bounds: tuple[float, ...] = (self.BOUND * min(self.size) / 32,)
        identity = torch.eye(2, 3, dtype=images.dtype, device=images.device)[None]
        shape = [1, 1, *self.size]
        self.grid = F.affine_grid(identity, shape, align_corners=False)
        # A pixel in the units of the grid, which runs from -1 to 1: x first, then y.
        self.pixel = images.new_tensor([2 / self.size[1], 2 / self.size[0]])

    def start(self, count: int, generator: Generator) -> Tensor:
        shifts = torch.randn(1, 2, self.POINTS, self.POINTS, generator=generator)
        shifts = shifts.to(self.like) * 0.2 * self.bounds[0]
        return shifts.repeat(count, 1, 1, 1)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        shifts = F.interpolate(parameters, self.size, mode="bicubic", align_corners=True)
        grid = self.grid + shifts.permute(0, 2, 3, 1) * self.pixel
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    def step(self, parameters: Tensor, grad: Tensor, bound: float) -> Tensor:
        # grid_sample's backward pass crashes on shifts that are NaN (PyTorch 2.13, CPU).
        grad = grad.nan_to_num(0.0, 0.0, 0.0)
        size = grad.abs().mean((1, 2, 3), keepdim=True).clamp(min=torch.finfo(grad.dtype).tiny)
        return (parameters - 2.5 / STEPS * bound * grad / size).clamp(-bound, bound)

    def limits(self, found: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        most = torch.full_like(found, self.FARTHEST * self.bounds[0] / self.BOUND)
        return -most, most


def kinds(images: Tensor) -> list[Kind]:
    """Those there are, for images (n,c,h,w) of this size, in the order to look for them in."""
    return [Warped(images), Sparse(images), Dense(images)]


def kind_of(unit: str, images: Tensor) -> Kind:
    """The kind whose norm is in `unit`, for images (n,c,h,w) of this size."""
    return next(kind for kind in kinds(images) if kind.unit == unit)


def _norms(triggers: Tensor) -> Tensor:
    """The L2 norm of each, (n,1,1,1), at least a tiny number."""
    norms = torch.linalg.vector_norm(triggers, dim=(1, 2, 3), keepdim=True)
    return norms.clamp(min=torch.finfo(triggers.dtype).tiny)
