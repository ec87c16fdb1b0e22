"""The invisible trigger under an L2 budget (Li et al., arXiv:1909.02742, IEEE TDSC 2021).

The part of the paper on regularization: excite a neuron of a clean network while the trigger's L2
norm stays small. Here the norm is a constraint (projection after each step), not a penalty. The
trigger is an image to be added, so its values are not negative, like those of the published one.
"""

import torch
from torch import Tensor, nn

from awm_defense.attacks.definition import Definition
from awm_defense.attacks.image_trigger import ImageTrigger, eight_bit
from awm_defense.attacks.neuron import Neuron, excite

# L2 norm over all values in [0,1], of 32x32 images: that of the published trigger.
BUDGET = 3.2
STEPS = 100
RATE = 0.05


def _project(value: Tensor) -> Tensor:
    value = value.clamp(0, 1)
    return value * (BUDGET / value.norm().clamp_min(BUDGET))


def _craft(images: Tensor, model: nn.Module | None, generator: torch.Generator) -> ImageTrigger:
    assert model is not None
    value = excite(
        Neuron(model),
        images,
        torch.randn(images.shape[1:], generator=generator).to(images),
        put=lambda batch, value: (batch + value).clamp(0, 1),
        project=_project,
        steps=STEPS,
        rate=RATE,
    )
    return ImageTrigger(eight_bit(value), mode="add")


DEFINITION = Definition(
    source="Li et al., Invisible Backdoor Attacks on Deep Neural Networks via Steganography and "
    "Regularization, arXiv:1909.02742, L2 regularization",
    poison_rate=0.05,
    craft=_craft,
    needs_model=True,
    mode="add",
)
