"""The trigger phase of an epoch: the worst universal trigger Δ (Algorithm 1, lines 2-9)."""

from math import inf

import torch

from awm_defense.awm.phase import Phase, Work, mean_loss
from awm_kernels import l1_rescale_, perturb, trigger_step_


class TriggerPhase(Phase):
    """Climbs the loss in Δ, and brings Δ into the L1 ball."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self.label, self.climb = work.capture(self.label_images), work.capture(self.step)

    def run(self) -> None:
        """All steps; Δ starts from nothing."""
        assert self.recipe.tau is not None
        self.buffers.delta.zero_()
        self.buffers.start_phase()
        if self.labels_once:
            self.label()
        for _ in range(self.data.steps):
            self.climb()
        l1_rescale_(self.buffers.delta, self.recipe.tau)

    @torch.no_grad()
    def label_images(self) -> None:
        """The network's own predictions for all images: masks stand still in this phase."""
        at = 0
        for chunk in self.data.images.split(self.data.batch):
            logits = self.network(self.network.layout(chunk))
            self.buffers.predictions[at : at + len(chunk)] = logits.argmax(1)
            at += len(chunk)

    def step(self) -> None:
        """One step up the loss in Δ (lines 4-8), on b images."""
        batch, delta = self.take(), self.buffers.delta
        targets = self.targets(self.recipe.trigger_targets, batch)
        leaf = delta.detach().requires_grad_()
        logits = self.network(perturb(batch.images, leaf, -inf, inf))
        loss = mean_loss(logits, targets, batch.weight)
        (grad,) = torch.autograd.grad(loss, leaf)
        if self.recipe.trigger_l2:
            grad = grad - 2 * self.recipe.trigger_l2 * delta
        trigger_step_(delta, grad, lr=self.recipe.trigger_lr)
        self.buffers.trigger_losses.index_copy_(0, self.buffers.position, loss.detach()[None])
        self.buffers.position.add_(1)
