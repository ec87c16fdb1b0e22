"""Margins of a class, and triggers that are grown up them."""

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

STEPS = 20
"""Steps of growth, at most; they lead from one limit to the other."""
STARTS, ASCENT, RATE = 8, 80, 0.05
"""Images that `largest_margins` starts a class from, its steps of Adam, and their learning rate."""


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


def largest_margins(
    logits: Callable[[Tensor], Tensor],
    like: Tensor,
    targets: Tensor,
    generator: torch.Generator,
    *,
    batch: int,
    progress: bool = False,
) -> Tensor:
    """The largest margin of each class over all images, as far as ascent from noise finds it.

    Wang et al., MM-BD: Post-Training Detection of Backdoor Attacks with Arbitrary Backdoor Pattern
    Types Using a Maximum Margin Statistic, IEEE S&P 2024.

    Args:
        logits: the network, from images in pixel space.
        like: images (n,c,h,w) of the size, dtype and place.
        targets: the classes, int64 (classes,).
        generator: on the CPU, of the noise.
        batch: images that go through the network at a time.
        progress: show a bar.

    Returns:
        The margins, (classes,).
    """
    noise = torch.rand(STARTS, *like.shape[1:], generator=generator).to(like)
    parts = targets.to(like.device).split(max(1, batch // STARTS))
    bar = tqdm(total=ASCENT * len(parts), desc="any image", unit="step", disable=not progress)
    found = []
    with bar:
        for part in parts:
            wanted = part.repeat_interleave(STARTS)
            images = noise.repeat(len(part), 1, 1, 1).requires_grad_()
            optimizer = torch.optim.Adam([images], RATE, maximize=True)
            for _ in range(ASCENT):
                margins = target_margins(logits(images), wanted)
                (images.grad,) = torch.autograd.grad(margins.sum(), images)
                optimizer.step()
                with torch.no_grad():
                    images.clamp_(0, 1)
                bar.update()
            with torch.no_grad():
                margins = target_margins(logits(images), wanted)
            found.append(margins.view(-1, STARTS).max(1).values)
    return torch.cat(found)


def beside(each: Tensor, triggers: Tensor) -> Tensor:
    """One value a trigger, (n,), as (n, 1, ...)."""
    return each.view(-1, *[1] * (triggers.dim() - 1))
