"""The tensors that steps read and write."""

import torch

from awm_defense.awm.batches import Batch, Batches, Draws


class Buffers:
    """Tensors that stay where they are, so that a step can be captured as a CUDA graph.

    Which images a step takes is looked up in a table on the device at `position`, and its losses
    are written beside it: it is replayed without a word from Python.

    Attributes:
        delta: the trigger Δ, (c, h, w).
        predictions: the network's own, of all images, int64 (n,).
        position: which step of its phase is next, int64 (1,).
        trigger_losses: of each step of a trigger phase, (T,).
        mask_losses: of each step of a mask phase, (T, 3): clean, under Δ, under grown triggers.
        bad: non-finite mask gradients met in an epoch, float64.
        rate: of mask steps, float64.
        weights: of the clean loss and of those under triggers, float64 (2,).
    """

    def __init__(self, data: Batches) -> None:
        self.data = data
        device = data.images.device
        self.delta = torch.zeros_like(data.images[0])
        self.predictions = torch.zeros_like(data.labels)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.trigger_losses = data.images.new_zeros(data.steps)
        self.mask_losses = data.images.new_zeros(data.steps, 3)
        self.bad = torch.zeros((), dtype=torch.float64, device=device)
        self.rate = torch.zeros((), dtype=torch.float64, device=device)
        weights = [data.recipe.alpha, data.recipe.beta]
        self.weights = torch.tensor(weights, dtype=torch.float64, device=device)
        self.table: Draws | None = None

    def start_phase(self) -> None:
        """Draw the next phase's batches and put them where the steps look for them."""
        drawn = self.data.draw()
        device = self.position.device
        if self.table is None:
            self.table = drawn.to(device)
        else:
            for target, source in zip(self.table, drawn, strict=True):
                if target is not None and source is not None:
                    pinned = source.pin_memory() if device.type == "cuda" else source
                    target.copy_(pinned, non_blocking=True)
        self.position.zero_()

    def take(self) -> Batch:
        """What the step at `position` works on."""
        assert self.table is not None
        return self.data.take(self.table, self.position)
