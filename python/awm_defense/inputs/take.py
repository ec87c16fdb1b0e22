"""Images and labels for a network, and what it says of them at first sight."""

from typing import NamedTuple

import torch
from torch import Tensor

from awm_defense.inputs.images import UNKNOWN, Given
from awm_defense.pixel_model import PixelModel, check_logits

BATCH = 50
LEAST = 0.5
"""The share of images that a network should classify right, at least."""
CAUSES = (
    "usual causes: another mean and std, classes in another order, channels in another order "
    "(RGB, BGR), another size or crop"
)
PREDICTED = "no labels were given: an image counts as of the class that the network names"
UNNORMALISED = (
    "neither labels nor mean and std were given: if the network was trained with mean and std, "
    "every result is wrong"
)


class Taken(NamedTuple):
    """What is worked with."""

    images: Tensor
    """(n, c, h, w), in the network's dtype, on the device."""
    labels: Tensor
    """Int64 (n,), on the device; the network's own where none were given."""
    notes: list[str]
    """What whoever reads the result should know of the images."""


def take(work: PixelModel, given: Given) -> Taken:
    """Images and labels on the device of a network's copy.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    logits = predict(work, given.images)
    unknown = given.labels == UNKNOWN
    labels = torch.where(unknown, logits.argmax(1), given.labels)
    check_logits(logits, labels)
    images, labels = work.take(given.images, labels)
    if given.unlabelled:
        unsure = [UNNORMALISED] if work.normalise.mean is None else []
        return Taken(images, labels, [PREDICTED, *unsure])
    right = (logits.argmax(1) == given.labels)[~unknown]
    return Taken(images, labels, doubts(int(right.sum()), len(right), logits.shape[1]))


def doubts(right: int, count: int, classes: int) -> list[str]:
    """A note where a network takes the given images for something else."""
    if right >= LEAST * count and right * classes > count:
        return []
    return [
        f"the network classifies {right} of the {count} given images right, guessing among "
        f"{classes} classes {count / classes:.3g}. Trust no result before that is mended; {CAUSES}"
    ]


@torch.no_grad()
def predict(work: PixelModel, images: Tensor) -> Tensor:
    """Logits (n, classes) of a copy in eval mode, on the CPU."""
    parts = images.split(BATCH)
    # Whatever is not finite is found, and told, by what works with it.
    found = work.portions.fit(lambda: [work(part.to(work.device)).cpu() for part in parts])
    return torch.cat(found).nan_to_num()
