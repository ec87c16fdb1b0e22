"""The two steps of Adversarial Weight Masking over static buffers, and the epochs made of them."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from awm_defense.batches import Batch, Batches, Phase
from awm_defense.capture import Captured
from awm_defense.examine import choose, search_again
from awm_defense.fisher import along, inverse
from awm_defense.growth import Growth
from awm_defense.network import WorkingNetwork
from awm_defense.recipes import Recipe
from awm_defense.triggers import kind_of
from awm_defense.verdict import Verdict
from awm_kernels import l1_project_, l1_rescale_, perturb, trigger_step_

INF = float("inf")
Under = Literal["delta", "delta and grown", "nothing"]


class Engine:
    """Runs epochs of a recipe (AWM paper, Algorithm 1).

    A step reads and writes buffers that stay where they are: which images it takes is looked up
    in a table on the device at `position`, and its losses are written beside it. So it can be
    captured as a CUDA graph and replayed without a word from Python, and the host only waits for
    the device once an epoch, for the history.

    Args:
        network: the working copy of the model.
        data: the images, and the draws of batches from them.
        recipe: resolved, without a None.
        captured: whether steps are captured on a CUDA device.
    """

    def __init__(
        self, network: WorkingNetwork, data: Batches, recipe: Recipe, *, captured: bool
    ) -> None:
        assert recipe.tau is not None and recipe.alpha is not None and recipe.beta is not None
        assert recipe.mask_lr is not None
        self.network, self.data, self.recipe = network, data, recipe
        self.tau, self.alpha, self.beta = recipe.tau, recipe.alpha, recipe.beta
        self.mask_lr = recipe.mask_lr
        device = data.images.device
        self.delta = torch.zeros_like(data.images[0])
        self.predictions = torch.zeros_like(data.labels)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.trigger_losses = data.images.new_zeros(data.steps)
        self.mask_losses = data.images.new_zeros(data.steps, 3)
        self.bad = torch.zeros((), dtype=torch.float64, device=device)
        self.lr = torch.zeros((), dtype=torch.float64, device=device)
        self.table: Phase | None = None
        # Whether one pass over the images can label every step of a trigger phase.
        self.labels_once = recipe.trigger_targets == "predictions" and not recipe.fresh_augmentation
        self.growth: Growth | None = None
        self.verdict: Verdict | None = None
        self.under: Under = "delta"
        self.natural = False
        pool = torch.cuda.graph_pool_handle() if device.type == "cuda" and captured else None
        self._capture = partial(Captured, device=device, pool=pool, enabled=captured)
        self.label, self.trigger = map(self._capture, (self.label_images, self.trigger_step))
        # A graph holds what the step was under when it was captured.
        self.learners = {kind: self._capture(self.mask_step) for kind in get_args(Under)}
        # Of each kind of trigger that verdicts named: its growth, and the mask step under it.
        self.growths: dict[str, tuple[Growth, Captured]] = {}

    def follow(self, verdict: Verdict | None, *, progress: bool = False) -> None:
        """Grow the verdict's trigger, for the epochs from now on; None: they are all under Δ."""
        self.verdict = verdict if self.recipe.grown else None
        if verdict is None or not self.recipe.grown:
            self.growth = None
            return
        if verdict.unit not in self.growths:
            data = self.data
            kind = kind_of(verdict.unit, data.images)
            few = choose(data.labels)
            growth = Growth(
                kind, data.images[few], data.labels[few], self.recipe.grown, data.generator
            )
            self.growths[verdict.unit] = growth, self._capture(self.mask_step)
        self.growth, self.learners["delta and grown"] = self.growths[verdict.unit]
        self.growth.start(verdict, self.logits, progress=progress)

    def logits(self, images: Tensor) -> Tensor:
        """What the network makes of images as it is now."""
        return self.network(self.network.layout(images))

    def epoch(self, number: int) -> dict[str, float]:
        """One outer iteration; returns its history entry, and `bad`: non-finite mask gradients."""
        self.bad.zero_()
        self.enter(number)
        if self.under != "nothing":
            self._seek()
        if self.under == "delta and grown" and number and self.recipe.search_again:
            self._search_again()
        if self.natural and number == 0:
            self._weigh()
        self.start_phase()
        step = self.recipe.natural_step if self.natural else None
        rate = self.mask_lr if step is None else self.mask_lr * step
        self.lr.fill_(rate * self.recipe.mask_lr_decay**number)
        self.network.flat.require_grad(True)
        for _ in range(self.data.steps):
            self.learn()
        self.network.flat.require_grad(False)
        return self._history(number)

    def enter(self, number: int) -> None:
        """Choose what the mask steps of an epoch are under, and how they are taken."""
        before = self.natural
        if self.growth is None:
            self.under = "delta"
        elif self.recipe.trigger_epochs is None or number < self.recipe.trigger_epochs:
            self.under = "delta and grown"
        else:
            self.under = "nothing"
        self.natural = self.under == "delta and grown" and self.recipe.natural_step is not None
        if before and not self.natural:
            # Its momentum is of other gradients.
            self.network.flat.forget()

    def learn(self) -> None:
        """A mask step, as captured for what it is under."""
        self.learners[self.under]()

    def _seek(self) -> None:
        """The trigger phase (lines 2-9)."""
        self.delta.zero_()
        self.start_phase()
        if self.labels_once:
            self.label()
        for _ in range(self.data.steps):
            self.trigger()
        bound = l1_project_ if self.recipe.trigger_ball == "project" else l1_rescale_
        bound(self.delta, self.tau)

    def _search_again(self) -> None:
        """Grow from what still leads to the verdict's class."""
        assert self.growth is not None and self.verdict is not None
        growth, verdict = self.growth, self.verdict
        found = search_again(
            verdict.target,
            self.logits,
            growth.images,
            growth.labels,
            growth.kind,
            growth.generator,
        )
        again = dataclasses.replace(verdict, trigger=found, second=None)
        # What grew first must not come back meanwhile.
        growth.start(again, self.logits, keep=len(growth.grown) // 2)

    def _weigh(self) -> None:
        """Weigh masks by what clean predictions depend on, and the first step to a mean of 1."""
        flat, heat = self.network.flat, self.recipe.temperature
        flat.require_grad(True)
        self.start_phase()
        total = torch.zeros_like(flat.theta)
        for _ in range(self.data.steps):
            images = self._take().images
            if self.recipe.mask_targets == "features":
                features = self.network.features(self.network.module, images)
                (features * self._noise(features)).sum().backward()
            else:
                logits = self.logits(images) / heat
                along(logits, self._noise(logits)).backward()
            total += flat.mask_grad().square()
            flat.grad.zero_()
            self.position.add_(1)
        factors = inverse(total, flat.views(total))
        layers = flat.views(factors)
        for layer in layers[max(1, int(self.recipe.natural_layers * len(layers))) :]:
            layer.zero_()
        self.position.zero_()
        self._losses(self._take())[1].backward()
        size = (flat.mask_grad() * factors).abs().mean()
        flat.grad.zero_()
        flat.require_grad(False)
        flat.weigh(factors / size.clamp(min=torch.finfo(size.dtype).tiny))

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.data.generator).to(like)

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

    def _history(self, number: int) -> dict[str, float]:
        clean, perturbed, grown = self.mask_losses.double().mean(dim=0)
        mask = self.network.flat.mask
        values = {"clean_loss": clean}
        if self.under != "nothing":
            values["trigger_loss"] = self.trigger_losses.double().mean()
            values["trigger_norm"] = self.delta.double().abs().sum()
            values["perturbed_loss"] = perturbed
        if self.under == "delta and grown":
            values["grown_loss"] = grown
        values["mask_mean"] = self.network.flat.stats[0] / mask.numel()
        values["bad"] = self.bad
        numbers = torch.stack(list(values.values())).tolist()
        return {"epoch": float(number), **dict(zip(values, numbers, strict=True))}

    @torch.no_grad()
    def label_images(self) -> None:
        """The network's own predictions for all images: masks stand still in a trigger phase."""
        at = 0
        for chunk in self.data.images.split(self.data.batch):
            logits = self.network(self.network.layout(chunk))
            self.predictions[at : at + len(chunk)] = logits.argmax(1)
            at += len(chunk)

    def trigger_step(self) -> None:
        """One step up the loss in Δ (lines 4-8), on b images."""
        batch = self._take()
        targets = self._targets(self.recipe.trigger_targets, batch)
        delta = self.delta.detach().requires_grad_()
        low, high = (0.0, 1.0) if self.recipe.clip_trigger_phase else (-INF, INF)
        logits = self.network(perturb(batch.images, delta, low, high))
        loss = _mean_loss(logits, targets, batch.weight)
        (grad,) = torch.autograd.grad(loss, delta)
        if self.recipe.trigger_l2:
            grad = grad - 2 * self.recipe.trigger_l2 * self.delta
        trigger_step_(self.delta, grad, lr=self.recipe.trigger_lr)
        self.trigger_losses.index_copy_(0, self.position, loss.detach()[None])
        self.position.add_(1)

    def mask_step(self) -> None:
        """One step on the masks (lines 11-13): b images and the same under Δ, in one batch.

        In an epoch under grown triggers also the same under these, which count as Δ does; in one
        under nothing the images alone.
        """
        losses, loss = self._losses(self._take())
        loss.backward()
        flat, l1 = self.network.flat, self.recipe.gamma
        self.bad += flat.update(self.lr, l1, weighed=self.natural)[1]
        self.mask_losses[:, : len(losses)].index_copy_(0, self.position, losses.detach()[None])
        self.position.add_(1)

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What masks are to lower: the parts, and their weighted sum."""
        parts = [batch.images]
        if self.under != "nothing":
            low, high = (0.0, 1.0) if self.recipe.clip_mask_phase else (-INF, INF)
            parts.append(perturb(batch.images, self.delta, low, high))
        if self.under == "delta and grown":
            assert self.growth is not None and batch.grown is not None
            parts.append(self.growth.apply(batch.images, *batch.grown))
        held = self._distances if self.recipe.mask_targets == "features" else self._entropies
        losses = torch.stack(held(torch.cat(parts), len(parts), batch))
        return losses, self.alpha * losses[0] + self.beta * losses[1:].sum()

    def _entropies(self, images: Tensor, parts: int, batch: Batch) -> list[Tensor]:
        """Cross-entropies of `parts` batches in one, with labels or the original's softmax."""
        heat = self.recipe.temperature
        targets = self._targets(self.recipe.mask_targets, batch, heat)
        logits = (self.logits(images) / heat).chunk(parts)
        # Times T², which keeps the gradient's size (Hinton et al., arXiv:1503.02531).
        return [heat**2 * _mean_loss(part, targets, batch.weight) for part in logits]

    def _distances(self, images: Tensor, parts: int, batch: Batch) -> list[Tensor]:
        """Squared distances of the features of `parts` batches in one from the original's."""
        rows = self.network.distances(images, parts, batch.images)
        return [r.mean() if batch.weight is None else r @ batch.weight for r in rows]

    def _take(self) -> Batch:
        assert self.table is not None
        batch = self.data.take(self.table, self.position)
        return batch._replace(images=self.network.layout(batch.images))

    @torch.no_grad()
    def _targets(self, kind: str, batch: Batch, temperature: float = 1.0) -> Tensor:
        if kind == "labels":
            return batch.labels
        if kind == "original":
            assert self.network.original is not None
            logits = self.network.forward(self.network.original, batch.images)
            return (logits / temperature).softmax(1)
        if self.labels_once:
            return self.predictions[batch.chosen]
        return self.network(batch.images).argmax(1)


def _mean_loss(logits: Tensor, targets: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return cross_entropy(logits, targets)
    return cross_entropy(logits, targets, reduction="none") @ weight
