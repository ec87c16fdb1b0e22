"""The diagonal of the Fisher information of predictions, by which mask steps are weighed.

A natural gradient (Amari, Neural Computation 1998), of the diagonal alone: the direction that
lowers a loss the most for what it changes of the predictions on clean images.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def along(logits: Tensor, noise: Tensor) -> Tensor:
    """A number whose squared gradient is, on the mean of the noise, the Fisher information.

    With p the softmax, logits J of the parameters, and noise N(0, 1), the gradient's covariance is
    the sum over rows of Jᵀ(diag p − ppᵀ)J.

    Args:
        logits: (n, classes).
        noise: of the standard normal distribution, (n, classes).
    """
    chances = logits.detach().softmax(1)
    directions = chances.sqrt() * noise
    directions = directions - chances * (chances.sqrt() * noise).sum(1, keepdim=True)
    return (logits * directions).sum()


def inverse(information: Tensor, layers: Iterable[Tensor]) -> Tensor:
    """1 / (F + its layer's mean), (n,), of information F, (n,); 0 in a layer without any.

    The layer's mean keeps what few images say nothing about from counting as free.

    Args:
        information: of all masks.
        layers: views of it, one a layer.
    """
    means = torch.cat([layer.mean().expand(layer.numel()) for layer in layers])
    return torch.where(means > 0, 1 / (information + means), 0)
