"""Warps: every pixel is moved a little."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from awm_defense.triggers.family import STEPS


class Warp:
    """A smooth warp of the image, the same for all: a coarse field of shifts (WaNet, ICLR 2021).

    Bounded is the shift of each control point, in pixels; bounds grow with the image.
    """

    kind, unit = "warped", "pixels"
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
