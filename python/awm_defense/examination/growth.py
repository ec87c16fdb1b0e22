"""Grows triggers to the class that a verdict names, of the strength of planted ones."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from awm_defense.examination.condense import condense, shrinking
from awm_defense.examination.margins import beside, grow, target_margins
from awm_defense.examination.search import Logits
from awm_defense.examination.verdict import Verdict
from awm_defense.triggers import Family, Sparse

STRENGTH = 15.0
"""Margin at which a trigger is grown, in units of the margin of clean images: that of planted
triggers is 3 to 15."""
KEEP = 0.7
"""The share of its room that a trigger grown around what was found gets, so that no two are
alike."""
STRONGEST, STEPS = 2.0, 40
"""The bound that sparse triggers are condensed to, in units of the largest that they are searched
in, and the steps to it."""
SQUARES = 0, 1 / 8, 0, 1 / 16
"""Sides of the squares that condensed triggers are made of, as shares of the image's; 0 is a pixel.
What a network answers to in single pixels outdoes what it was taught to answer to in patches.
Those that tell whether the backdoor is back are of pixels alone: squares lead by themselves."""
FAINTEST = 0.3
"""Grown triggers are put on images in amounts from here to 1."""
PROBES, ALIVE = 4, 0.02
"""Triggers that masks are not learnt under, and the share of images that they lead to the class
from which the backdoor is back: one, of ten images under each of four."""
AT_ONCE = 2
"""Triggers that grow in one batch: memory is that of so many times the images."""


Change = Callable[[Tensor], Tensor]


class Growth:
    """Triggers toward a verdict's class, as strong as planted ones.

    The smallest trigger is the faint end of what a backdoor answers to: masks that undo it leave
    alive the planted one, which has many times its effect.

    Around the smallest, steps up the margin of the class find triggers that excite the same
    features as strongly as the planted one.

    A planted trigger may do nothing while a part of it is missing, so that no small one leads to
    it. Noise excites it, and what is left when the bound shrinks is condensed from that. A few
    such triggers are kept apart: masks are not learnt under them, and they tell whether the
    backdoor is back.

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
        self.noise = Generator()
        self.images, self.labels = images, labels
        shape = family.start(1, torch.Generator()).shape[1:]
        self.grown = images.new_zeros(room, *shape)
        self.probes = images.new_zeros(PROBES if isinstance(family, Sparse) else 0, *shape)

    def start(
        self,
        verdict: Verdict,
        logits: Logits,
        *,
        keep: int | None = None,
        condensed: bool = False,
        progress: bool = False,
    ) -> None:
        """Forget what was grown, and grow this verdict's triggers as often as there is room for.

        `logits` is the network as it is, from images in pixel space. The first `keep` of the
        triggers stay what they are. With None the network is as it came: noise is drawn as for the
        first one, and what tells whether its backdoor is back is condensed from it, too.
        `condensed`: so are all, not only those to a class that was found so.
        """
        condensed = condensed or verdict.radii is not None
        if keep is None:
            self.noise.manual_seed(self.generator.initial_seed())
            self._condense(self.probes, verdict, logits, squares=(0,), progress=progress)
        fill = self._condense if condensed else self._surround
        fill(self.grown[keep:], verdict, logits, progress=progress)

    def hold(self, verdict: Verdict, logits: Logits) -> None:
        """Condense the first half of the triggers from noise, of the network as it came.

        What a masked network answers to need not be what is left of its backdoor.
        """
        self._condense(self.grown[: len(self.grown) // 2], verdict, logits)

    def _condense(
        self,
        triggers: Tensor,
        verdict: Verdict,
        logits: Logits,
        *,
        squares: tuple[float, ...] = SQUARES,
        progress: bool = False,
    ) -> None:
        """Fill triggers (n,c,h,w), each from noise of its own, of squares."""
        if not len(triggers):
            return
        parts = triggers.split(AT_ONCE)
        for turn, part in enumerate(tqdm(parts, desc="grow", unit="batch", disable=not progress)):
            height, width = part.shape[2:]
            side = max(1, round(squares[turn % len(squares)] * min(height, width)))
            shift = torch.randint(side, (2,), generator=self.noise).tolist()
            shown = partial(in_squares, side=side, shift=shift, height=height, width=width)
            shape = *part.shape[:2], -(-height // side), -(-width // side)
            noise = 2 * torch.rand(shape, generator=self.noise).to(part) - 1
            last = STRONGEST * self.family.bounds[0] / side**2
            bounds = shrinking(noise[0].numel(), last, STEPS)
            margins = self._margins(len(part), verdict.target, logits, shown)
            *_, (_, found, _) = condense(margins, noise, self.family.step, bounds)
            part.copy_(shown(found))

    def _surround(
        self, triggers: Tensor, verdict: Verdict, logits: Logits, *, progress: bool = False
    ) -> None:
        """Fill triggers (n,...), each over a share of the room of one that was found."""
        found = [t.to(triggers) for t in (verdict.trigger, verdict.second) if t is not None]
        limits = [self.family.limits(trigger, self.images) for trigger in found]
        with torch.no_grad():
            ease = target_margins(logits(self.images), self.labels).mean()
        parts = triggers.split(AT_ONCE)
        for turn, part in enumerate(tqdm(parts, desc="grow", unit="batch", disable=not progress)):
            least, most = limits[turn % len(limits)]
            free = torch.rand(part.shape, generator=self.generator) < KEEP
            room = free.to(least.device)
            margins = self._margins(len(part), verdict.target, logits)
            part.copy_(grow(margins, least * room, most * room, STRENGTH * ease))

    def _margins(
        self, count: int, target: int, logits: Logits, shown: Change = Tensor.clone
    ) -> Change:
        """Of that many triggers, as they are shown, the class's margin, mean over other images."""
        counts = (self.labels != target).to(self.grown)
        weights = counts / counts.sum()
        images = self.images.repeat(count, 1, 1, 1)
        targets = torch.full((len(images),), target, device=images.device)

        def margins(triggers: Tensor) -> Tensor:
            spread = shown(triggers).repeat_interleave(len(self.images), dim=0)
            rows = target_margins(logits(self.family.apply(images, spread)), targets)
            return rows.view(count, -1) @ weights

        return margins

    @torch.no_grad()
    def alive(self, target: int, logits: Logits) -> bool:
        """Whether triggers that masks are not learnt under lead to the class again."""
        others = self.images[logits(self.images).argmax(1) != target]
        if not len(self.probes) or not len(others):
            return False
        led = [
            logits(self.family.apply(others, probe.expand(len(others), *probe.shape))).argmax(1)
            for probe in self.probes
        ]
        return float((torch.cat(led) == target).double().mean()) > ALIVE

    def apply(self, images: Tensor, which: Tensor, amounts: Tensor) -> Tensor:
        """Images (n,c,h,w), each under one of the triggers grown; draws are (n,) in [0,1)."""
        triggers = self.grown[(which * len(self.grown)).long()]
        amounts = FAINTEST + (1 - FAINTEST) * amounts.to(triggers)
        return self.family.apply(images, triggers * beside(amounts, triggers))


def in_squares(colours: Tensor, *, side: int, shift: list[int], height: int, width: int) -> Tensor:
    """Triggers (n,c,height,width) of squares, from the colours of these, (n,c,rows,columns)."""
    whole = interpolate(colours, scale_factor=side)[:, :, :height, :width]
    return whole.roll(shift, (2, 3))
