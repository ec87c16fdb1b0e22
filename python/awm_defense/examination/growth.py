"""Grows the small trigger that a verdict names to the strength of a planted one."""

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from awm_defense.examination.margins import beside, grow, target_margins
from awm_defense.examination.search import Logits
from awm_defense.examination.verdict import Verdict
from awm_defense.triggers import Family

STRENGTH = 15.0
"""Margin at which a trigger is grown, in units of the margin of clean images: that of planted
triggers is 3 to 15."""
KEEP = 0.7
"""The share of its room that each trigger gets, so that no two are alike."""
FAINTEST = 0.3
"""Grown triggers are put on images in amounts from here to 1."""
AT_ONCE = 2
"""Triggers that grow in one batch: memory is that of so many times the images."""


class Growth:
    """Triggers toward a verdict's class, as strong as planted ones.

    The smallest trigger is the faint end of what a backdoor answers to: masks that undo it leave
    alive the planted one, which has many times its effect. Around the smallest, steps up the margin
    of the class find triggers that excite the same features as strongly as the planted one.

    The triggers grown lie in one buffer, which `apply` reads: it stays where it is.

    Args:
        family: of the triggers.
        images: to grow them on, (n,c,h,w) in [0,1].
        labels: their classes, int64 (n,).
        room: how many triggers there will be.
        generator: on the CPU, of what is random.
    """

    def __init__(
        self, family: Family, images: Tensor, labels: Tensor, room: int, generator: Generator
    ) -> None:
        self.family, self.generator = family, generator
        self.images, self.labels = images, labels
        shape = family.start(1, torch.Generator()).shape[1:]
        self.grown = images.new_zeros(room, *shape)

    def start(
        self, verdict: Verdict, logits: Logits, *, keep: int = 0, progress: bool = False
    ) -> None:
        """Forget what was grown, and grow this verdict's triggers as often as there is room for.

        `logits` is the network as it is, from images in pixel space. The first `keep` of the
        triggers stay what they are.
        """
        found = [t.to(self.grown) for t in (verdict.trigger, verdict.second) if t is not None]
        limits = [self.family.limits(trigger, self.images) for trigger in found]
        target = verdict.target
        # Images of the class itself don't count.
        counts = (self.labels != target).to(self.grown)
        weights = counts / counts.sum()
        with torch.no_grad():
            ease = target_margins(logits(self.images), self.labels).mean()
        parts = self.grown[keep:].split(AT_ONCE)
        for turn, part in enumerate(tqdm(parts, desc="grow", unit="batch", disable=not progress)):
            least, most = limits[turn % len(limits)]
            free = torch.rand(part.shape, generator=self.generator) < KEEP
            images = self.images.repeat(len(part), 1, 1, 1)
            targets = torch.full((len(images),), target, device=images.device)

            def margins(triggers: Tensor, images: Tensor = images, to: Tensor = targets) -> Tensor:
                spread = triggers.repeat_interleave(len(self.images), dim=0)
                rows = target_margins(logits(self.family.apply(images, spread)), to)
                return rows.view(len(triggers), -1) @ weights

            room = free.to(least.device)
            part.copy_(grow(margins, least * room, most * room, STRENGTH * ease))

    def apply(self, images: Tensor, which: Tensor, amounts: Tensor) -> Tensor:
        """Images (n,c,h,w), each under one of the triggers grown; draws are (n,) in [0,1)."""
        triggers = self.grown[(which * len(self.grown)).long()]
        amounts = FAINTEST + (1 - FAINTEST) * amounts.to(triggers)
        return self.family.apply(images, triggers * beside(amounts, triggers))
