"""Which of many classes are worth a search, found at a cost that does not grow with their number.

A trigger whose target is free leads to whichever class of a group is the easiest to reach, so one
climb looks at a whole group. Its easiest class leaves, and the others are grouped anew, for two
easy ones may lie in one group.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from awm_defense.examination.margins import grow

MOST = 50
"""Classes that are all searched; of more, some are."""
SUSPECTS, COMPARED = 5, 5
"""Classes searched of those that are easy to reach, and of all others, to compare with."""
GROUPS, ROUNDS = 10, 3
"""Climbs in a round, and rounds."""
IMAGES = 4
"""Images that they climb on."""
FARTHEST = 1.0
"""How far each pixel value may go: anywhere."""


@dataclass(frozen=True)
class Screening:
    """Which classes of many are searched.

    Attributes:
        classes: how many there are.
        suspects: those that are the easiest to reach.
        compared: some of the others, at random, to compare with.
    """

    classes: int
    suspects: tuple[int, ...]
    compared: tuple[int, ...]

    @property
    def searched(self) -> tuple[int, ...]:
        """All that are searched, suspects first."""
        return self.suspects + self.compared

    def __str__(self) -> str:
        return (
            f"of {self.classes} classes {len(self.suspects)} were searched that a quick screen "
            f"picked, and {len(self.compared)} at random, of which that is the median"
        )


def screen(
    logits: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    classes: int,
    generator: torch.Generator,
) -> Screening:
    """Screen the classes of a network.

    Args:
        logits: the network, from images in pixel space.
        images: (n,c,h,w) in [0,1]; the first `IMAGES` are taken.
        labels: their classes, int64 (n,).
        classes: how many there are, more than `MOST`.
        generator: on the CPU, of groups and of the classes to compare with.
    """
    few, own = images[:IMAGES], labels[:IMAGES]
    left = torch.randperm(classes, generator=generator).to(images.device)
    easiest, reached = [], []
    for _ in range(ROUNDS):
        groups = torch.zeros(GROUPS, classes, dtype=torch.bool, device=images.device)
        groups[torch.arange(len(left), device=left.device) % GROUPS, left] = True
        margins, found = _easiest(logits, few, own, groups)
        easiest.append(found)
        reached.append(margins)
        left = left[~torch.isin(left, found)]
    order = torch.cat(reached).argsort(descending=True)
    suspects = torch.cat(easiest)[order[:SUSPECTS]].tolist()
    others = torch.randperm(classes, generator=generator).tolist()
    compared = [one for one in others if one not in suspects][:COMPARED]
    return Screening(classes, tuple(suspects), tuple(compared))


def _easiest(
    logits: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, groups: Tensor
) -> tuple[Tensor, Tensor]:
    """The margin and number of each group's easiest class, (groups,), groups bool (groups, k)."""
    count, classes = groups.shape
    repeated = images.repeat(count, 1, 1, 1)
    # Images of a class itself don't count for it.
    counts = (labels[:, None] != torch.arange(classes, device=labels.device)).to(images)

    def margins(changes: Tensor) -> Tensor:
        changed = repeated + changes.repeat_interleave(len(images), dim=0)
        rows = every_margin(logits(changed.clamp(0, 1))).view(count, len(images), classes)
        return (rows * counts).sum(1) / counts.sum(0).clamp(min=1)

    def largest(changes: Tensor) -> Tensor:
        # Softly: the class that is ahead at first need not be the one that gains the most.
        found = margins(changes)
        heat = found.detach().std(1).clamp(min=torch.finfo(found.dtype).tiny)
        return heat * (found / heat[:, None]).masked_fill(~groups, -torch.inf).logsumexp(1)

    most = images.new_full((count, *images.shape[1:]), FARTHEST)
    grown = grow(largest, -most, most)
    with torch.no_grad():
        return margins(grown).masked_fill(~groups, -torch.inf).max(1)


def every_margin(logits: Tensor) -> Tensor:
    """By how much each logit lies above the largest other one of its row, (n, classes)."""
    largest, at = logits.topk(2, dim=1)
    own = torch.arange(logits.shape[1], device=logits.device) == at[:, :1]
    return logits - torch.where(own, largest[:, 1:], largest[:, :1])
