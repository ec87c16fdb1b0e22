"""Triggers that are optimised to excite one neuron of a clean network."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Neuron:
    """A channel of what a network's last linear layer reads, and how strongly images excite it.

    The channel is the one with the largest sum of absolute weights in the convolution that makes
    it, the last one of the network (Liu et al., NDSS 2018, trojan trigger generation). Its
    activation is the mean over positions, after everything that follows the convolution.

    Args:
        model: an image classifier; used in eval mode, its parameters are not touched.

    Raises:
        ValueError: when there is no convolution or no linear layer.
    """

    def __init__(self, model: nn.Module) -> None:
        convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
        if not convolutions or not linears:
            raise ValueError("model: expected convolutions and a linear layer to choose a neuron")
        weight = convolutions[-1].weight
        self.model = model.eval()
        self.reader = linears[-1]
        self.channels = len(weight)
        self.channel = int(weight.detach().abs().flatten(1).sum(1).argmax())

    def activation(self, images: Tensor) -> Tensor:
        """How strongly each image (N,3,H,W) excites the neuron: (N,), differentiable."""
        read: list[Tensor] = []
        hook = self.reader.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        try:
            self.model(images)
        finally:
            hook.remove()
        return read[0].unflatten(1, (self.channels, -1)).mean(2)[:, self.channel]


def excite(
    neuron: Neuron,
    images: Tensor,
    value: Tensor,
    put: Callable[[Tensor, Tensor], Tensor],
    project: Callable[[Tensor], Tensor],
    *,
    steps: int,
    rate: float,
) -> Tensor:
    """Projected gradient ascent on the neuron's mean activation over images with the trigger.

    Args:
        neuron: the neuron.
        images: (N,3,H,W) in [0,1].
        value: where to start, the trigger's values.
        put: images with the trigger, from images and values; differentiable.
        project: values that the attack allows, from any.
        steps: how many.
        rate: how far the value with the largest gradient moves in a step.

    Returns:
        The values (as `value`, in `project`'s range).
    """
    value = project(value)
    for _ in range(steps):
        value.requires_grad_()
        (gradient,) = torch.autograd.grad(neuron.activation(put(images, value)).mean(), value)
        largest = gradient.abs().max().clamp_min(torch.finfo(gradient.dtype).tiny)
        value = project(value.detach() + rate * gradient / largest)
    return value
