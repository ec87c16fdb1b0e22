"""Trojan square and watermark (Liu et al., Trojaning Attack on Neural Networks, NDSS 2018).

The trigger's shape is given; its values are found by gradient ascent on one neuron of a clean
network (the paper's "trojan trigger generation"). Two things differ: the ascent sees the trigger on
training images, not alone on black, and instead of reaching a given activation it runs a fixed
number of steps.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from awm_defense.attacks.definition import Definition
from awm_defense.attacks.image_trigger import ImageTrigger, eight_bit
from awm_defense.attacks.neuron import Neuron, excite

SOURCE = "Liu et al., Trojaning Attack on Neural Networks, NDSS 2018, trojan trigger generation"
STEPS = 100
RATE = 0.1
# The largest value that is added to a pixel: a square shows, a watermark shines through.
SQUARE_STRENGTH = 1.0
WATERMARK_STRENGTH = 0.4


def square(height: int, width: int) -> Tensor:
    """(1,H,W) of zeros and ones: rows and columns 21 to 29 of 32x32, at other sizes in scale."""
    shape = torch.zeros(1, height, width)
    rows = slice(round(height * 21 / 32), round(height * 30 / 32))
    columns = slice(round(width * 21 / 32), round(width * 30 / 32))
    shape[:, rows, columns] = 1
    return shape


def watermark(height: int, width: int) -> Tensor:
    """(1,H,W) of zeros and ones: a ring with a bar across it, about 30 % of the image."""
    y = torch.linspace(-1, 1, height)[:, None]
    x = torch.linspace(-1, 1, width)[None, :]
    radius = (x**2 + y**2).sqrt()
    ring = (radius > 0.65) & (radius < 0.85)
    bar = ((x + y).abs() < 0.12) & (radius < 0.85)
    return (ring | bar)[None].float()


def _craft(
    shape_of: Callable[[int, int], Tensor],
    strength: float,
    images: Tensor,
    model: nn.Module | None,
    generator: torch.Generator,
) -> ImageTrigger:
    assert model is not None
    shape = shape_of(*images.shape[2:]).to(images)
    start = torch.rand(images.shape[1:], generator=generator).to(images) * strength
    value = excite(
        Neuron(model),
        images,
        start,
        put=lambda batch, value: (batch + value).clamp(0, 1),
        project=lambda value: value.clamp(0, strength) * shape,
        steps=STEPS,
        rate=RATE,
    )
    return ImageTrigger(eight_bit(value), mode="add")


SQUARE = Definition(
    source=SOURCE,
    poison_rate=0.05,
    craft=lambda *given: _craft(square, SQUARE_STRENGTH, *given),
    needs_model=True,
    mode="add",
)
WATERMARK = Definition(
    source=SOURCE,
    poison_rate=0.05,
    craft=lambda *given: _craft(watermark, WATERMARK_STRENGTH, *given),
    needs_model=True,
    mode="add",
)
