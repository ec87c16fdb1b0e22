"""Adversarial weight masking by a recipe: Algorithm 1 of the AWM paper, and what `default` adds.

The paper's lines 7 and 12 have their signs the other way round. What is done is its Eq. 4.4: the
least over masks of the most over Δ.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from oracle.examination import Verdict, choose, examine, grow, margin, seek
from oracle.families import families
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from awm_defense import Recipe
from awm_defense.data.augment import (
    crop,
    draw_crops,
    draw_mirrored,
    mirror,
    random_resized_crop_flip,
)
from awm_defense.data.mix import cutmix, draw_boxes, draw_factors, jitter

FRESH_BATCHES = 3
"""Batches that count as one pass over the data where images are augmented anew in every step."""
STRENGTH = 15.0
"""Margin to which triggers grow, in units of the margin of clean images: as planted ones have."""


@dataclass
class Purified:
    """Masks by layer, the last Δ (zeros where none was sought), and the verdict, if asked for."""

    masks: dict[str, Tensor]
    trigger: Tensor
    verdict: Verdict | None


@dataclass
class Batch:
    """b images, and of each: which grown trigger it may carry, and how much of it, in [0, 1)."""

    images: Tensor
    labels: Tensor
    which: Tensor | None
    amounts: Tensor | None


Change = Callable[[Batch], Tensor]


def purify(
    model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, seed: int = 0
) -> Purified:
    """The masks that a recipe finds for a network that takes pixels; it stays as it is."""
    run = Run(model, images, labels, recipe, seed)
    verdict = examine(run.original, images, labels, seed) if recipe.examine else None
    if verdict is not None and verdict.backdoored is False:
        return Purified(run.masks, run.delta, verdict)
    # Triggers are grown where the verdict names a class to grow them to.
    planted = verdict if verdict is not None and verdict.backdoored and recipe.grown else None
    if planted is not None:
        run.grow_triggers(planted, keep=0)
    under_triggers = recipe.epochs if recipe.trigger_epochs is None else recipe.trigger_epochs
    for epoch in range(recipe.epochs):
        rate = run.mask_lr * recipe.mask_lr_decay**epoch
        if planted is None:
            run.trigger_phase()
            run.mask_phase(run.optimizer, rate, [run.with_delta])
        elif epoch < under_triggers:
            run.trigger_phase()
            if epoch > 0 and recipe.search_again:
                run.grow_triggers(run.sought_again(planted), keep=recipe.grown // 2)
            changes = [run.with_delta, run.with_grown]
            if recipe.natural_step is None:
                run.mask_phase(run.optimizer, rate, changes)
            else:
                if epoch == 0:
                    run.weigh(changes)
                run.mask_phase(run.natural, rate * recipe.natural_step, changes, run.factors)
        else:
            run.mask_phase(run.optimizer, rate, [])
    return Purified(run.masks, run.delta, verdict)


class Run:
    """Masks, triggers and random draws of one purification, and its phases."""

    def __init__(
        self, model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, seed: int
    ) -> None:
        classes = len(labels.unique())
        # Fills in what depends on the number of images: b, τ, α and β.
        self.recipe = recipe = recipe.resolve(len(images), classes, images[0].numel())
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        kinds = (nn.Conv2d,) if recipe.layers == "conv" else (nn.Conv2d, nn.Linear)
        self.theta = {
            f"{name}.weight": layer.weight
            for name, layer in self.model.named_modules()
            if isinstance(layer, kinds)
        }
        # Line 1.
        self.masks = {name: torch.ones_like(w).requires_grad_() for name, w in self.theta.items()}
        self.delta = torch.zeros_like(images[0])
        self.grown: list[Tensor] = []
        self.mask_lr = recipe.mask_lr
        if self.mask_lr is None:
            sizes = [(w.numel(), w[0].numel()) for w in self.theta.values()]
            inputs = sum(n * each for n, each in sizes) / sum(n for n, _ in sizes)
            self.mask_lr = recipe.mask_lr_share / inputs**0.5
        optimizers = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
        self.optimizer = optimizers[recipe.mask_optimizer](self.masks.values(), lr=self.mask_lr)
        self.natural = torch.optim.SGD(self.masks.values(), momentum=0.9)
        self.factors: list[Tensor] | None = None
        self.generator = Generator().manual_seed(seed)
        self.images, self.labels = self.with_copies(images, labels, classes)

    def original(self, images: Tensor) -> Tensor:
        """Logits of the network as it came."""
        return self.model(images)

    def logits(self, images: Tensor) -> Tensor:
        """Logits of the masked network, f(x; m ⊙ θ)."""
        weights = {name: self.masks[name] * weight for name, weight in self.theta.items()}
        return functional_call(self.model, weights, (images,))

    # The two phases of an epoch.

    def trigger_phase(self) -> None:
        """Lines 3 to 9: Δ climbs the loss of all images at once, then goes into the L1 ball."""
        recipe = self.recipe
        delta = torch.zeros_like(self.delta)
        for batch in self.phase():
            delta.requires_grad_()
            loss = cross_entropy(self.logits(batch.images + delta), self.led_away_from(batch))
            loss = loss - recipe.trigger_l2 * delta.square().sum()
            (slope,) = torch.autograd.grad(loss, delta)
            delta = delta.detach() + recipe.trigger_lr * slope
        self.delta = delta * min(1.0, recipe.tau / float(delta.abs().sum()))

    def mask_phase(
        self,
        optimizer: torch.optim.Optimizer,
        rate: float,
        changes: list[Change],
        factors: list[Tensor] | None = None,
    ) -> None:
        """Lines 10 to 14: masks descend the loss, on clean images and under each of the changes.

        With `factors` of all masks, their gradients are multiplied by them.
        """
        optimizer.param_groups[0]["lr"] = rate
        masks = list(self.masks.values())
        for batch in self.phase():
            slopes = torch.autograd.grad(self.mask_loss(batch, changes), masks)
            for i, (mask, slope) in enumerate(zip(masks, slopes, strict=True)):
                weighed = slope if factors is None else factors[i] * slope
                # γ‖m‖₁ is γ times the sum: no mask is negative.
                mask.grad = weighed + self.recipe.gamma
            optimizer.step()
            with torch.no_grad():
                for mask in masks:
                    mask.clamp_(0, 1)

    def led_away_from(self, batch: Batch) -> Tensor:
        """What Δ leads away from: classes, or probabilities."""
        with torch.no_grad():
            if self.recipe.trigger_targets == "labels":
                return batch.labels
            if self.recipe.trigger_targets == "predictions":
                return self.logits(batch.images).argmax(1)
            return self.original(batch.images).softmax(1)

    def mask_loss(self, batch: Batch, changes: list[Change]) -> Tensor:
        """Line 11 without γ‖m‖₁: α times the clean loss and β times each of the others.

        All are held to the labels, or to what the original network says of the clean images at a
        temperature T; T² keeps the size of the gradient.
        """
        recipe, heat = self.recipe, self.recipe.temperature
        targets = batch.labels
        if recipe.mask_targets == "original":
            targets = (self.original(batch.images) / heat).softmax(1)

        def held(images: Tensor) -> Tensor:
            return heat**2 * cross_entropy(self.logits(images) / heat, targets)

        changed = sum(held(change(batch)) for change in changes)
        return recipe.alpha * held(batch.images) + recipe.beta * changed

    def with_delta(self, batch: Batch) -> Tensor:
        """The images under Δ."""
        images = batch.images + self.delta
        return images.clamp(0, 1) if self.recipe.clip_mask_phase else images

    # What `default` adds: grown triggers, and steps down the natural gradient.

    def with_grown(self, batch: Batch) -> Tensor:
        """Each image under a grown trigger drawn for it, between 0.3 and 1 of it."""
        amounts = 0.3 + 0.7 * batch.amounts.double()
        changed = [
            self.family.apply(image[None], amount * self.grown[int(which)])
            for image, which, amount in zip(batch.images, batch.which, amounts, strict=True)
        ]
        return torch.cat(changed)

    def grow_triggers(self, verdict: Verdict, keep: int) -> None:
        """Grow triggers to a verdict's class as strong as planted ones; the first `keep` stay.

        Each may grow over a random 70 % of its elements, so that no two are alike. They are drawn
        in twos, which grow from the verdict's trigger and from the second one, if any, in turn.
        """
        self.family = next(f for f in families(self.images) if f.unit == verdict.unit)
        images, labels = self.searched()
        others = images[labels != verdict.target]
        found = [t for t in (verdict.trigger, verdict.second) if t is not None]
        enough = STRENGTH * float(margin(self.logits(images), labels).mean())
        self.grown = self.grown[:keep]
        turn = 0
        while len(self.grown) < self.recipe.grown:
            least, most = self.family.limits(found[turn % len(found)], images)
            two = min(2, self.recipe.grown - len(self.grown))
            for free in torch.rand(two, *most.shape, generator=self.generator) < 0.7:
                room = least * free, most * free
                grown = grow(self.logits, others, verdict.target, self.family, room, enough)
                self.grown.append(grown)
            turn += 1

    def sought_again(self, verdict: Verdict) -> Verdict:
        """The verdict with the trigger that leads to its class in the network as masked so far."""
        images, labels = self.searched()
        target, family = verdict.target, self.family
        trigger = seek(self.logits, images, labels, target, family, self.generator)
        return replace(verdict, trigger=trigger, second=None)

    def searched(self) -> tuple[Tensor, Tensor]:
        """The images that triggers are sought and grown on."""
        chosen = choose(self.labels)
        return self.images[chosen], self.labels[chosen]

    def weigh(self, changes: list[Change]) -> None:
        """Factors of the masks: the less clean predictions depend on one, the larger.

        1 / (F + mean of F in its layer), with F the diagonal of the Fisher information of the
        predictions at the temperature: mean squares of gradients in random directions whose
        covariance is diag p − p pᵀ. The first step then changes masks by the rate on the mean.
        """
        masks = list(self.masks.values())
        information = [torch.zeros_like(mask) for mask in masks]
        batches = list(self.phase())
        for batch in batches:
            logits = self.logits(batch.images) / self.recipe.temperature
            p = logits.detach().softmax(1)
            noise = p.sqrt() * torch.randn(p.shape, generator=self.generator)
            direction = noise - p * noise.sum(1, keepdim=True)
            slopes = torch.autograd.grad((logits * direction).sum(), masks)
            information = [f + slope**2 for f, slope in zip(information, slopes, strict=True)]
        factors = [torch.where(f.mean() > 0, 1 / (f + f.mean()), 0) for f in information]
        slopes = torch.autograd.grad(self.mask_loss(batches[0], changes), masks)
        sizes = [(f * slope).abs().flatten() for f, slope in zip(factors, slopes, strict=True)]
        self.factors = [f / torch.cat(sizes).mean() for f in factors]

    # The batches.

    def with_copies(self, images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """One image a class is too few to draw from: fixed augmented copies are added."""
        recipe = self.recipe
        if recipe.fresh_augmentation or len(images) > classes:
            return images, labels
        made = [images]
        for _ in range(recipe.copies):
            scale = (recipe.crop_scale, 1.0)
            made.append(
                random_resized_crop_flip(images, self.generator, scale=scale, flip=recipe.flip)
            )
        return torch.cat(made), labels.repeat(len(made))

    def phase(self) -> Iterator[Batch]:
        """The T batches of a phase, of b images drawn with replacement; all is drawn at once."""
        recipe, generator = self.recipe, self.generator
        size = FRESH_BATCHES * recipe.batch_size if recipe.fresh_augmentation else len(self.images)
        b = min(recipe.batch_size, size)
        steps = recipe.passes * (size // b)
        index = torch.randint(len(self.images), (steps, b), generator=generator)
        shape = torch.Size((steps * b, *self.images.shape[1:]))
        if recipe.fresh_augmentation:
            crops = draw_crops(shape, generator, scale=(recipe.crop_scale, 1.0))
            mirrored = draw_mirrored(len(crops[0]), generator) if recipe.flip else None
            boxes = draw_boxes(shape, generator, recipe.cutmix) if recipe.cutmix else None
            factors = draw_factors(shape, generator, recipe.jitter) if recipe.jitter else None
        which, amounts = torch.rand(2, steps * b, generator=generator) if recipe.grown else (None, None)

        def batches() -> Iterator[Batch]:
            for step, chosen in enumerate(index):
                images, mine = self.images[chosen], slice(step * b, (step + 1) * b)
                if recipe.fresh_augmentation:
                    images = crop(images, crops[:, mine])
                    images = images if mirrored is None else mirror(images, mirrored[mine])
                    images = images if boxes is None else cutmix(images, boxes[:, mine])
                    images = images if factors is None else jitter(images, factors[:, mine])
                labels = self.labels[chosen]
                if which is None:
                    yield Batch(images, labels, None, None)
                else:
                    numbers = (which[mine] * recipe.grown).long()
                    yield Batch(images, labels, numbers, amounts[mine])

        return batches()
