"""Blended injection (Chen et al., arXiv:1712.05526) with Gaussian noise over the whole image."""

import torch
from torch import Tensor, nn

from awm_defense.attacks.definition import Definition
from awm_defense.attacks.image_trigger import ImageTrigger, eight_bit

# Of the paper and of its common re-implementations; the AWM paper gives only the rate.
OPACITY = 0.2
# The noise's mean and standard deviation, in pixel values.
MEAN, STD = 0.5, 0.25


def _craft(images: Tensor, model: nn.Module | None, generator: torch.Generator) -> ImageTrigger:
    noise = MEAN + STD * torch.randn(images.shape[1:], generator=generator)
    return ImageTrigger(eight_bit(noise.clamp(0, 1)).to(images), mode="blend", opacity=OPACITY)


DEFINITION = Definition(
    source="Chen et al., Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning, "
    "arXiv:1712.05526, blended injection strategy",
    poison_rate=0.01,
    craft=_craft,
    mode="blend",
)
