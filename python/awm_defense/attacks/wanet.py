"""WaNet (Nguyen & Tran, ICLR 2021, arXiv:2102.10369): images warped by a smooth field.

The paper's noise mode keeps other warps from working: twice as many images as are poisoned get the
field plus noise and keep their labels. Training draws the noise, and which images are poisoned,
anew in every epoch; the authors' code does so in every batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from awm_defense.attacks.attack import Attack, change, draw
from awm_defense.attacks.definition import Definition

# k and s of the paper: size of the control grid, strength of the warp in half pixels.
CONTROL_POINTS = 4
STRENGTH = 0.5
NOISE_RATIO = 2
# Half of an image. Fields of the paper's strength have a few hundredths; of much larger ones every
# pixel is read from the border.
FARTHEST = 1.0


class WarpTrigger:
    """Moves each pixel along a fixed field.

    Args:
        field: (H,W,2), how far to the right and down each pixel is read from, in units of which
            two are the image's width and height; from -1 to 1.

    Raises:
        ValueError: for another shape, or numbers beyond.
    """

    def __init__(self, field: Tensor) -> None:
        if field.ndim != 3 or field.shape[2] != 2 or not field.is_floating_point():
            raise ValueError(
                "trigger_field: expected floating point (H,W,2), "
                f"got {field.dtype} of shape {tuple(field.shape)}"
            )
        low, high = field.aminmax() if field.numel() else (field.new_zeros(()),) * 2
        if not (low >= -FARTHEST and high <= FARTHEST):  # NaN is refused, too
            raise ValueError(
                f"trigger_field: expected numbers from {-FARTHEST:g} to {FARTHEST:g}, which is "
                f"half of the image's width or height, got {low:g} to {high:g}"
            )
        self.field = field

    def __call__(self, images: Tensor) -> Tensor:
        return self.warp(images, self.field.expand(len(images), -1, -1, -1))

    def noisy(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images warped by the field plus uniform noise, another for each (noise mode)."""
        shape = (len(images), *self.field.shape)
        noise = torch.rand(shape, generator=generator) * 2 - 1
        return self.warp(images, self.field.cpu() + noise / len(self.field))

    def warp(self, images: Tensor, field: Tensor) -> Tensor:
        """Images (N,3,H,W) warped by one field (N,H,W,2) each."""
        if images.shape[2:] != self.field.shape[:2]:
            raise ValueError(
                f"trigger_field: expected {(*images.shape[2:], 2)}, as large as the images, got "
                f"{tuple(self.field.shape)}"
            )
        height, width = images.shape[2:]
        y = torch.linspace(-1, 1, height).to(images)[:, None].expand(height, width)
        x = torch.linspace(-1, 1, width).to(images)[None, :].expand(height, width)
        grid = (torch.stack((x, y), dim=2) + field.to(images)).clamp(-1, 1)
        return F.grid_sample(images, grid, align_corners=True).clamp(0, 1)


def _draw_noised(poisoned: Tensor, total: int, generator: torch.Generator) -> Tensor:
    """Indices of the images for the noise mode, of those that are left."""
    free = torch.ones(total, dtype=torch.bool)
    free[poisoned] = False
    share = NOISE_RATIO * len(poisoned) / total
    left = free.nonzero().flatten()
    return draw(left, "left for the noise mode", share, total, generator)


class WaNetAttack(Attack):
    """Poisons with noise mode."""

    redraws = True

    def check_rate(self, labels: Tensor, rate: float) -> None:
        """As `Attack.check_rate`, with the images of the noise mode."""
        super().check_rate(labels, rate)
        generator = torch.Generator()
        poisoned = self.draw_poisoned(labels, rate, generator)
        _draw_noised(poisoned, len(labels), generator)

    def poison(
        self, images: Tensor, labels: Tensor, rate: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `Attack.poison`, and warp twice as many images with noise, labels untouched."""
        assert isinstance(self.trigger, WarpTrigger)
        trigger = self.trigger
        images, labels, poisoned = super().poison(images, labels, rate, generator)
        noised = _draw_noised(poisoned, len(labels), generator)
        change(images, noised, lambda batch: trigger.noisy(batch, generator))
        return images, labels, torch.cat((poisoned, noised)).sort().values


def _craft(images: Tensor, model: nn.Module | None, generator: torch.Generator) -> WarpTrigger:
    height, width = images.shape[2:]
    control = torch.rand(1, 2, CONTROL_POINTS, CONTROL_POINTS, generator=generator) * 2 - 1
    control = control / control.abs().mean()
    field = F.interpolate(control, (height, width), mode="bicubic", align_corners=True)
    scale = STRENGTH / torch.tensor([width, height])
    return WarpTrigger(field[0].permute(1, 2, 0) * scale)


DEFINITION = Definition(
    source="Nguyen & Tran, WaNet, ICLR 2021, arXiv:2102.10369, warping field generation and "
    "running modes",
    poison_rate=0.1,
    craft=_craft,
    attack=WaNetAttack,
)
