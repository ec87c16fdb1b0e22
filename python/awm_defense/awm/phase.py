"""What both phases of an epoch share."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from awm_defense.awm.batches import Batch, Batches
from awm_defense.awm.buffers import Buffers
from awm_defense.awm.capture import Capture
from awm_defense.awm.recipe import Recipe
from awm_defense.working.network import WorkingNetwork


class Work(NamedTuple):
    """What the phases work on.

    Attributes:
        network: the working copy of the model.
        data: the images, and the draws of batches from them.
        recipe: resolved, without a None.
        buffers: what steps read and write.
        capture: of steps, as CUDA graphs.
    """

    network: WorkingNetwork
    data: Batches
    recipe: Recipe
    buffers: Buffers
    capture: Capture


class Phase:
    """Steps on batches of the defender's images."""

    def __init__(self, work: Work) -> None:
        self.network, self.data, self.recipe, self.buffers, _ = work
        recipe = work.recipe
        # Whether one pass over the images can label every step of a trigger phase.
        self.labels_once = recipe.trigger_targets == "predictions" and not recipe.fresh_augmentation

    def take(self) -> Batch:
        """What the step at the buffers' position works on, in the network's layout."""
        batch = self.buffers.take()
        return batch._replace(images=self.network.layout(batch.images))

    @torch.no_grad()
    def targets(self, of: str, batch: Batch, temperature: float = 1.0) -> Tensor:
        """What a batch is held to, or led away from: int64 (n,), or probabilities (n, classes).

        Args:
            of: "labels", "predictions" or "original", as `Recipe.trigger_targets` has it.
            batch: the images.
            temperature: what the original network's logits are divided by.
        """
        if of == "labels":
            return batch.labels
        if of == "original":
            assert self.network.original is not None
            logits = self.network.forward(self.network.original, batch.images)
            return (logits / temperature).softmax(1)
        if self.labels_once:
            return self.buffers.predictions[batch.chosen]
        return self.network(batch.images).argmax(1)


def mean_loss(logits: Tensor, targets: Tensor, weight: Tensor | None) -> Tensor:
    """Cross-entropy, the mean over a batch, in which rows may stand for several images."""
    if weight is None:
        return cross_entropy(logits, targets)
    return cross_entropy(logits, targets, reduction="none") @ weight
