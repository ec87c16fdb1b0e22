"""Grows the small trigger that a verdict names to the strength of a planted one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from awm_defense.margins import beside, grow, target_margins
from awm_defense.triggers import Kind
from awm_defense.verdict import Verdict

STRENGTH = 15.0
"""Margin at which a trigger is grown, in units of the margin of clean images: that of planted
triggers is 3 to 15."""
KEEP = 0.7
"""The share of its room that each trigger gets, so that no two are alike."""
FAINTEST = 0.3
"""Grown triggers are put on images in amounts from here to 1."""

Logits = Callable[[Tensor], Tensor]


class Growth:
    """Triggers toward a verdict's class, as strong as planted ones.

    The smallest trigger is the faint end of what a backdoor answers to: masks that undo it leave
    alive the planted one, which has many times its effect. Around the smallest, steps up the margin
    of the class find triggers that excite the same features as strongly as the planted one.

    The triggers grown lie in one buffer, which `apply` reads: it stays where it is.

    Args:
        kind: of the triggers.
        images: to grow them on, (n,c,h,w) in [0,1].
        labels: their classes, int64 (n,).
        room: how many triggers there will be.
        generator: on the CPU, of what is random.
    """

    def __init__(
        self, kind: Kind, images: Tensor, labels: Tensor, room: int, generator: Generator
    ) -> None:
        self.kind, self.generator = kind, generator
        self.images, self.labels = images, labels
        shape = kind.start(1, torch.Generator()).shape[1:]
        self.grown = images.new_zeros(room, *shape)
        self.count = torch.zeros((), dtype=torch.int64, device=images.device)

    def start(self, verdict: Verdict, logits: Logits) -> None:
        """Forget what was grown, and grow this verdict's trigger from now on.

        `logits` is the network as it was, from images in pixel space.
        """
        self.count.zero_()
        self.least, self.most = self.kind.limits(verdict.trigger.to(self.grown), self.images)
        with torch.no_grad():
            ease = target_margins(logits(self.images), self.labels).mean()
        self.enough = STRENGTH * ease
        self.target = verdict.target
        # Images of the class itself don't count.
        counts = (self.labels != self.target).to(self.grown)
        self.weights = counts / counts.sum()

    def grow(self, logits: Logits, count: int) -> None:
        """Add `count` triggers, grown against the network as it is now."""
        free = torch.rand(count, *self.most.shape, generator=self.generator) < KEEP
        least, most = (limit * free.to(limit.device) for limit in (self.least, self.most))
        images = self.images.repeat(count, 1, 1, 1)
        targets = torch.full((len(images),), self.target, device=images.device)

        def margins(triggers: Tensor) -> Tensor:
            spread = triggers.repeat_interleave(len(self.images), dim=0)
            rows = target_margins(logits(self.kind.apply(images, spread)), targets)
            return rows.view(count, -1) @ self.weights

        grown = grow(margins, least, most, self.enough)
        self.grown.index_copy_(0, self.count + torch.arange(count, device=grown.device), grown)
        self.count += count

    def apply(self, images: Tensor, which: Tensor, amounts: Tensor) -> Tensor:
        """Images (n,c,h,w), each under one of the triggers grown; draws are (n,) in [0,1)."""
        triggers = self.grown[(which * self.count).long()]
        amounts = FAINTEST + (1 - FAINTEST) * amounts.to(triggers)
        return self.kind.apply(images, triggers * beside(amounts, triggers))
