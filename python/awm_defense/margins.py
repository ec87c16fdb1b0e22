"""Margins of a class, and triggers that are grown up them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

STEPS = 20
"""Steps of growth, at most; they lead from one limit to the other."""


def target_margins(logits: Tensor, targets: Tensor) -> Tensor:
    """By how much each row's target lies above the largest other logit, (n,)."""
    own = logits.gather(1, targets[:, None])
    others = logits.scatter(1, targets[:, None], -torch.inf)
    return (own - others.max(1, keepdim=True).values).squeeze(1)


def grow(
    margins: Callable[[Tensor], Tensor],
    least: Tensor,
    most: Tensor,
    enough: Tensor | float = torch.inf,
) -> Tensor:
    """Triggers grown from nothing by sign steps, until their margin is enough.

    Args:
        margins: of triggers (n,...), each one's margin, (n,).
        least, most: limits of each element, (n,...).
        enough: the margin at which a trigger is left as it is.

    Returns:
        The triggers, (n,...).
    """
    grown = torch.zeros_like(most)
    for _ in range(STEPS):
        grown.requires_grad_()
        reached = margins(grown)
        (slope,) = torch.autograd.grad(reached.sum(), grown)
        larger = (grown + (most - least) / STEPS * slope.sign()).clamp(least, most)
        grown = torch.where(beside(reached < enough, grown), larger, grown).detach()
    return grown


def beside(each: Tensor, triggers: Tensor) -> Tensor:
    """One value a trigger, (n,), as (n, 1, ...)."""
    return each.view(-1, *[1] * (triggers.dim() - 1))
