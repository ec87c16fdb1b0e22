"""The mask phase of an epoch: masks that make the network ignore triggers (lines 10-14)."""

from math import inf

import torch
from torch import Tensor

from awm_defense.awm.batches import Batch
from awm_defense.awm.natural import along, inverse
from awm_defense.awm.phase import Phase, Work, mean_loss
from awm_defense.awm.schedule import Under
from awm_defense.examination.growth import Growth
from awm_kernels import perturb

# Where in `Buffers.mask_losses` the losses of each sort of step stand.
COLUMNS = {
    Under.NOTHING: slice(1),
    Under.DELTA: slice(2),
    Under.GROWN: slice(0, 3, 2),
    Under.BOTH: slice(3),
}


class MaskPhase(Phase):
    """Steps on the masks, all under the same.

    Args:
        work: what it works on. A captured step holds what it is under.
        under: what that is.
        natural: whether steps go down the natural gradient.
        growth: the grown triggers, where steps are under these.
    """

    def __init__(
        self,
        work: Work,
        *,
        under: Under = Under.DELTA,
        natural: bool = False,
        growth: Growth | None = None,
    ) -> None:
        super().__init__(work)
        self.under, self.natural, self.growth = under, natural, growth
        self.learn = work.capture(self.step)

    def run(self, rate: float) -> None:
        """All steps, at a rate."""
        self.buffers.start_phase()
        self.buffers.rate.fill_(rate)
        self.network.flat.require_grad(True)
        for _ in range(self.data.steps):
            self.learn()
        self.network.flat.require_grad(False)

    def step(self) -> None:
        """One step on the masks (lines 11-13): b images and the same under Δ, in one batch.

        Under grown triggers the same under these, which count as Δ does, besides it or in its
        place.
        """
        losses, loss = self.losses(self.take())
        loss.backward()
        buffers = self.buffers
        stats = self.network.flat.update(buffers.rate, self.recipe.gamma, weighed=self.natural)
        buffers.bad += stats[1]
        written = buffers.mask_losses[:, COLUMNS[self.under]]
        written.index_copy_(0, buffers.position, losses.detach()[None])
        buffers.position.add_(1)

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What masks are to lower: the parts, and their weighted sum."""
        recipe, heat = self.recipe, self.recipe.temperature
        parts = [batch.images]
        if Under.DELTA in self.under:
            low, high = (0.0, 1.0) if recipe.clip_mask_phase else (-inf, inf)
            parts.append(perturb(batch.images, self.buffers.delta, low, high))
        if Under.GROWN in self.under:
            assert self.growth is not None and batch.grown is not None
            parts.append(self.growth.apply(batch.images, *batch.grown))
        targets = self.targets(recipe.mask_targets, batch, heat)
        logits = self.network.logits(torch.cat(parts)) / heat
        # Times T², which keeps the gradient's size (Hinton et al., arXiv:1503.02531).
        losses = torch.stack(
            [heat**2 * mean_loss(part, targets, batch.weight) for part in logits.chunk(len(parts))]
        )
        clean, triggered = self.buffers.weights
        return losses, clean * losses[0] + triggered * losses[1:].sum()

    def weigh(self) -> None:
        """Weigh masks by what clean predictions depend on, and the first step to a mean of 1."""
        flat, heat, position = self.network.flat, self.recipe.temperature, self.buffers.position
        flat.require_grad(True)
        self.buffers.start_phase()
        information = torch.zeros_like(flat.theta)
        for _ in range(self.data.steps):
            logits = self.network.logits(self.take().images) / heat
            noise = torch.randn(logits.shape, generator=self.data.generator).to(logits)
            along(logits, noise).backward()
            information += flat.mask_grad().square()
            flat.grad.zero_()
            position.add_(1)
        factors = inverse(information, flat.views(information))
        position.zero_()
        self.losses(self.take())[1].backward()
        slope = flat.mask_grad() * factors
        size = slope.abs().mean().clamp(min=torch.finfo(slope.dtype).tiny)
        flat.grad.zero_()
        flat.require_grad(False)
        flat.weigh(factors / size)
