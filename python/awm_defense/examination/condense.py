"""Triggers condensed from noise: how small can one be that still leads to a class?"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

LAST = 2.0
"""The smallest bound, as `Sparse.bounds` has them: that of one saturated pixel."""
STEPS = 60
"""From the first bound to that one."""


def shrinking(size: int, last: float, steps: int) -> list[float]:
    """L1 bounds of triggers of so many values, from half of all to the last, in equal ratios."""
    ratio = (2 * last / size) ** (1 / (steps - 1))
    return [size / 2 * ratio**step for step in range(steps)]


def condense(
    margins: Callable[[Tensor], Tensor],
    start: Tensor,
    step: Callable[[Tensor, Tensor, float], Tensor],
    bounds: list[float],
) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Triggers of the largest margin within a bound that shrinks.

    Planted triggers that do nothing while a part of them is missing are found so: noise excites
    them, and as the bound shrinks what the network answers to the most stays.

    Args:
        margins: of triggers (n,...), each one's margin, (n,).
        start: what they are made of, (n,...).
        step: triggers and the gradient of what is to fall, both (n,...), and the bound, to the
            next triggers.
        bounds: of each step.

    Yields:
        After each step its bound, the triggers and their margins.
    """
    found = start.detach().requires_grad_()
    reached = margins(found)
    for bound in bounds:
        (slope,) = torch.autograd.grad(-reached.sum(), found)
        found = step(found.detach(), slope, bound).requires_grad_()
        reached = margins(found)
        yield bound, found.detach(), reached.detach()


def smallest(path: Iterable[tuple[float, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Along a path, as `condense` yields it: the smallest trigger that leads to each class.

    Returns:
        The bounds within which they were found, (classes,), infinite where there is none; the
        triggers, (classes,...); and the margins of each step, (steps, classes).
    """
    reached: list[Tensor] = []
    for bound, found, margins in path:
        if not reached:
            norms, triggers = torch.full_like(margins, torch.inf), torch.zeros_like(found)
        leads = margins > 0
        norms[leads] = bound
        triggers[leads] = found[leads]
        reached.append(margins)
    return norms, triggers, torch.stack(reached)
