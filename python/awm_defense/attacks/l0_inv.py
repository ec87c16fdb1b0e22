"""The invisible trigger under an L0 budget (Li et al., arXiv:1909.02742, IEEE TDSC 2021).

The part of the paper on regularization: a few pixels that excite a neuron of a clean network. The
pixels here are those by which a first-order step can excite it most; then their values are
optimised.
"""

import torch
from torch import Tensor, nn

from awm_defense.attacks.definition import Definition
from awm_defense.attacks.image_trigger import ImageTrigger, eight_bit
from awm_defense.attacks.neuron import Neuron, excite

# Pixels, as many as the published trigger's mask covers.
BUDGET = 9
STEPS = 50
RATE = 0.1


def _best_pixels(neuron: Neuron, images: Tensor) -> Tensor:
    """(1,H,W) of zeros and BUDGET ones: where some new value raises the activation most."""
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(neuron.activation(images).sum(), images)
    # Each value may go up to 1 or down to 0, but to the same in all images.
    up, down = gradient * (1 - images), -gradient * images
    gain = torch.maximum(up.mean(0), down.mean(0)).sum(0)
    mask = torch.zeros_like(gain).flatten()
    mask[gain.flatten().topk(BUDGET).indices] = 1
    return mask.view(1, *gain.shape).detach()


def _craft(images: Tensor, model: nn.Module | None, generator: torch.Generator) -> ImageTrigger:
    assert model is not None
    neuron = Neuron(model)
    mask = _best_pixels(neuron, images)
    value = excite(
        neuron,
        images,
        torch.rand(images.shape[1:], generator=generator).to(images),
        put=lambda batch, value: batch * (1 - mask) + value,
        project=lambda value: value.clamp(0, 1) * mask,
        steps=STEPS,
        rate=RATE,
    )
    return ImageTrigger(eight_bit(value), mode="replace", mask=mask)


DEFINITION = Definition(
    source="Li et al., Invisible Backdoor Attacks on Deep Neural Networks via Steganography and "
    "Regularization, arXiv:1909.02742, L0 regularization",
    poison_rate=0.05,
    craft=_craft,
    needs_model=True,
    mode="replace",
)
