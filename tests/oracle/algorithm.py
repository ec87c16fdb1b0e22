"""Adversarial weight masking by a recipe: Algorithm 1 of the AWM paper, and what `default` adds.

The paper's lines 7 and 12 have their signs the other way round. What is done is its Eq. 4.4: the
least over masks of the most over Δ.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from awm_defense import Recipe
from awm_defense.data import augment, mix

from .examination import Probe, Verdict, choose, examine
from .families import Sparse, Squares, families

PRESSURE = 9.0
"""How much more losses under triggers weigh once a backdoor has come back."""
APART, BACK = 4, 0.02
"""Triggers that masks are not learnt under, and the share of images that they lead to a class from
which its backdoor is back."""
GAIN = 1.5
"""How much more still, before each later epoch in which it is not gone."""
AVERAGED = 4
"""Last epochs whose masks are averaged, of those under grown triggers alone."""


@dataclass
class Purified:
    """Masks by layer, the last Δ (zeros where none was sought), and the verdict, if asked for."""

    masks: dict[str, Tensor]
    trigger: Tensor
    verdict: Verdict | None


@dataclass
class Batch:
    """b images; of each, which grown trigger it may carry and how much of it, in [0, 1), (2, b)."""

    images: Tensor
    labels: Tensor
    grown: Tensor | None


Change = Callable[[Batch], Tensor]


def purify(
    model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, seed: int = 0
) -> Purified:
    """The masks that a recipe finds for a network that takes pixels; it stays as it is."""
    run = Run(model, images, labels, recipe, seed)
    verdict = examine(run.model, images, labels, seed) if recipe.examine else None
    if verdict is not None and verdict.backdoored is False:
        return Purified(run.masks, run.delta, verdict)
    # Triggers are grown where the verdict names a class to grow them to.
    planted = verdict if verdict is not None and verdict.backdoored and recipe.grown else None
    if planted is not None:
        run.grow_triggers(planted)
    under_triggers = recipe.epochs if recipe.trigger_epochs is None else recipe.trigger_epochs
    start, last = 0, []
    for epoch in range(recipe.epochs):
        rate = run.mask_lr * recipe.mask_lr_decay ** (epoch - start)
        if planted is None:
            run.trigger_phase()
            run.mask_phase(run.optimizer, rate, [run.with_delta])
            continue
        back = False
        if epoch >= under_triggers and run.alive(planted):
            # What was not undone weighs more, from now on. The first time it also gets an epoch
            # like the first ones, at the first rate.
            back = run.pressure == 1
            run.pressure *= PRESSURE if back else GAIN
            if back:
                start, rate = epoch, run.mask_lr
        changes = []
        if epoch < under_triggers or back:
            run.trigger_phase()
            changes.append(run.with_delta)
        if changes or run.pressure > 1:
            if epoch > 0 and recipe.search_again:
                run.grow_again(planted, back)
            changes.append(run.with_grown)
        by = run.optimizer
        if len(changes) == 2 and recipe.natural_step is not None and run.of_convolutions:
            by, rate = run.natural, rate * recipe.natural_step
            if epoch == 0:
                run.weigh(changes)
        run.mask_phase(by, rate, changes)
        if changes == [run.with_grown] and epoch >= recipe.epochs - AVERAGED:
            last.append([mask.detach().clone() for mask in run.masks.values()])
    if last:
        for mask, found in zip(run.masks.values(), zip(*last, strict=True), strict=True):
            mask.data = torch.stack(found).mean(0)
    return Purified(run.masks, run.delta, verdict)


class Run:
    """The masks, triggers and random draws of one purification, and its phases."""

    def __init__(
        self, model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, seed: int
    ) -> None:
        classes = len(labels.unique())
        # Fills in what depends on the number of images: b, τ, α and β.
        self.recipe = recipe = recipe.resolve(len(images), classes, images[0].numel())
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        kinds = (nn.Conv2d,) if recipe.layers == "conv" else (nn.Conv2d, nn.Linear)
        layers = {n: layer for n, layer in self.model.named_modules() if isinstance(layer, kinds)}
        self.theta = {name: layer.weight for name, layer in layers.items()}
        inside = sum(w.numel() for w in self.theta.values() if w.dim() > 2)
        self.of_convolutions = 2 * inside >= sum(w.numel() for w in self.theta.values())
        # Line 1.
        self.masks = {name: torch.ones_like(w).requires_grad_() for name, w in self.theta.items()}
        self.delta = torch.zeros_like(images[0])
        self.grown: list[Tensor] = []
        self.apart: list[Tensor] = []
        self.pressure = 1.0
        # A share of 1 / √inputs of an output, on the mean of all weights, unless it is given.
        inputs = torch.cat([torch.full((w.numel(),), w[0].numel()) for w in self.theta.values()])
        share = recipe.mask_lr_share
        self.mask_lr = share / float(inputs.double().mean()) ** 0.5 if share else recipe.mask_lr
        optimizer = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[recipe.mask_optimizer]
        self.optimizer = optimizer(self.masks.values(), lr=self.mask_lr)
        self.natural = torch.optim.SGD(self.masks.values(), momentum=0.9)
        self.generator, self.noise = (Generator().manual_seed(seed) for _ in range(2))
        # One image a class is too few to draw from: `copies` of each are added.
        copies = 0 if recipe.fresh_augmentation or len(images) > classes else recipe.copies
        options = {"scale": (recipe.crop_scale, 1.0), "flip": recipe.flip}
        augmented = [
            augment.random_resized_crop_flip(images, self.generator, **options)
            for _ in range(copies)
        ]
        self.images = torch.cat([images, *augmented])
        self.labels = labels.repeat(copies + 1)
        chosen = choose(self.labels)
        self.probe = Probe(self.logits, self.images[chosen], self.labels[chosen])

    def logits(self, images: Tensor, masks: dict[str, Tensor] | None = None) -> Tensor:
        """Of the masked network, f(x; m ⊙ θ); those of the original are `model`'s."""
        masks = self.masks if masks is None else masks
        weights = {f"{name}.weight": masks[name] * w for name, w in self.theta.items()}
        return functional_call(self.model, weights, (images,))

    def phase(self) -> list[Batch]:
        """The T batches of a phase, of b images each, drawn with replacement.

        The generator is asked in this order by the library, too.
        """
        recipe, draws = self.recipe, self.generator
        # Where images are augmented anew in every step, a pass is three batches of any data.
        size = 3 * recipe.batch_size if recipe.fresh_augmentation else len(self.images)
        assert recipe.batch_size is not None
        b = min(recipe.batch_size, size)
        steps = recipe.inner_epochs * (size // b)
        index = torch.randint(len(self.images), (steps * b,), generator=draws)
        images = self.images[index]
        if recipe.fresh_augmentation:
            scale = (recipe.crop_scale, 1.0)
            images = augment.crop(images, augment.draw_crops(images.shape, draws, scale=scale))
            if recipe.flip:
                images = augment.mirror(images, augment.draw_mirrored(len(images), draws))
            if recipe.cutmix:
                # Patches come from the same batch.
                boxes = mix.draw_boxes(images.shape, draws, recipe.cutmix).split(b, dim=1)
                pairs = zip(images.split(b), boxes, strict=True)
                images = torch.cat([mix.cutmix(part, box) for part, box in pairs])
            if recipe.jitter:
                factors = mix.draw_factors(images.shape, draws, recipe.jitter)
                images = mix.jitter(images, factors)
        grown = torch.rand(2, len(images), generator=draws) if recipe.grown else None
        parts = [slice(start, start + b) for start in range(0, len(images), b)]
        return [
            Batch(images[s], self.labels[index[s]], None if grown is None else grown[:, s])
            for s in parts
        ]

    def trigger_phase(self) -> None:
        """Lines 3 to 9: one Δ climbs the loss of all images, then goes into the L1 ball."""
        delta = torch.zeros_like(self.delta)
        for batch in self.phase():
            delta = delta.detach().requires_grad_()
            loss = cross_entropy(self.logits(batch.images + delta), self.led_away_from(batch))
            (grad,) = torch.autograd.grad(loss, delta)
            delta = delta + self.recipe.trigger_lr * grad
        delta = delta.detach()
        self.delta = delta * (self.recipe.tau / delta.abs().sum()).clamp(max=1)

    @torch.no_grad()
    def led_away_from(self, batch: Batch) -> Tensor:
        """What Δ leads away from: classes (b,), or probabilities (b, classes)."""
        if self.recipe.trigger_targets == "labels":
            return batch.labels
        if self.recipe.trigger_targets == "predictions":
            return self.logits(batch.images).argmax(1)
        return self.model(batch.images).softmax(1)

    def mask_phase(
        self, optimizer: torch.optim.Optimizer, rate: float, changes: list[Change]
    ) -> None:
        """Lines 10 to 14: masks descend the loss, on clean images and under each of the changes."""
        optimizer.param_groups[0]["lr"] = rate
        # The other's momentum is of other gradients.
        other = self.natural if optimizer is self.optimizer else self.optimizer
        other.state.clear()
        masks = list(self.masks.values())
        for batch in self.phase():
            grads = list(torch.autograd.grad(self.mask_loss(batch, changes), masks))
            if optimizer is self.natural:
                grads = [f * grad for f, grad in zip(self.factors, grads, strict=True)]
            for mask, grad in zip(masks, grads, strict=True):
                # The gradient of γ‖m‖₁ is γ, as no mask is negative.
                mask.grad = grad + self.recipe.gamma
            optimizer.step()
            for mask in masks:
                mask.data.clamp_(0, 1)

    def mask_loss(self, batch: Batch, changes: list[Change]) -> Tensor:
        """Line 11 without γ‖m‖₁: α times the clean loss, and β times that under each change.

        Under pressure β is larger by as much, and both are scaled to their old sum.

        All are held to the labels, or to what the original network says of the clean images at a
        temperature T; T² keeps the size of the gradient.
        """
        recipe, heat = self.recipe, self.recipe.temperature
        original = recipe.mask_targets == "original"
        targets = (self.model(batch.images) / heat).softmax(1) if original else batch.labels

        def held(images: Tensor) -> Tensor:
            return heat**2 * cross_entropy(self.logits(images) / heat, targets)

        changed = sum(held(change(batch)) for change in changes)
        beta = recipe.beta * self.pressure
        scale = (recipe.alpha + recipe.beta) / (recipe.alpha + beta)
        return scale * (recipe.alpha * held(batch.images) + beta * changed)

    def with_delta(self, batch: Batch) -> Tensor:
        """The images under Δ."""
        images = batch.images + self.delta
        return images.clamp(0, 1) if self.recipe.clip_mask_phase else images

    def with_grown(self, batch: Batch) -> Tensor:
        """Each image under its own grown trigger, times 0.3 to 1."""
        assert batch.grown is not None
        changed = []
        for image, which, amount in zip(batch.images, *batch.grown, strict=True):
            trigger = (0.3 + 0.7 * amount.double()) * self.grown[int(which * len(self.grown))]
            changed.append(self.family.apply(image[None], trigger))
        return torch.cat(changed)

    def grow_triggers(self, verdict: Verdict) -> None:
        """Grow triggers to a verdict's class, as strong as planted ones."""
        self.family = next(f for f in families(self.images) if f.unit == verdict.unit)
        if isinstance(self.family, Sparse):
            # Masks are not learnt under these: they tell whether the backdoor is back.
            self.apart = self.condensed(self.probe, verdict.target, APART, (0,))
        self.grown = self.anew(verdict, self.recipe.grown, from_noise=verdict.radii is not None)

    def grow_again(self, verdict: Verdict, back: bool) -> None:
        """Grow the second half anew, on the network as masked so far.

        As the backdoor comes back, the first half anew on the original network.
        """
        kept = self.grown[: self.recipe.grown // 2]
        from_noise = self.pressure > 1 or verdict.radii is not None
        if not from_noise:
            # Around what leads to the class in the network as masked so far.
            start, bound = self.family.start(self.generator), self.family.bounds[0]
            trigger = self.probe.seek(verdict.target, self.family, start, bound)
            verdict = replace(verdict, trigger=trigger, second=None)
        if back:
            original = replace(self.probe, logits=self.model)
            kept = self.condensed(original, verdict.target, len(kept))
        self.grown = kept + self.anew(verdict, self.recipe.grown - len(kept), from_noise)

    def anew(self, verdict: Verdict, count: int, from_noise: bool) -> list[Tensor]:
        """So many triggers to a verdict's class."""
        if from_noise:
            return self.condensed(self.probe, verdict.target, count)
        return self.around(verdict, count)

    def condensed(
        self,
        probe: Probe,
        target: int,
        count: int,
        shares: tuple[float, ...] = (0, 1 / 8, 0, 1 / 16),
    ) -> list[Tensor]:
        """Sparse triggers, each from noise of its own, to twice the largest bound of the search.

        Of each eight, two are of squares of an eighth of the image's side, two of a sixteenth, the
        others of single pixels. Squares lie shifted, the same way for two.
        """
        triggers: list[Tensor] = []
        last, (channels, height, width) = 2 * self.family.bounds[0], self.delta.shape
        while len(triggers) < count:
            share = shares[len(triggers) // 2 % len(shares)]
            side = max(1, round(share * min(height, width)))
            shift = torch.randint(side, (2,), generator=self.noise)
            grid = channels, math.ceil(height / side), math.ceil(width / side)
            drawn = torch.rand(min(2, count - len(triggers)), *grid, generator=self.noise)
            family = Squares(self.probe.images, side, shift.tolist())
            for colours in drawn:
                noise, bound = 2 * colours.double() - 1, last / side**2
                *_, (_, trigger, _) = probe.condense(target, family, noise, bound, 40)
                triggers.append(family.shown(trigger))
        return triggers

    def around(self, verdict: Verdict, count: int) -> list[Tensor]:
        """Triggers around what was found, with up to 15 times the margin of clean images.

        Each grows over a random 70 % of its elements, so that no two are alike. Two grow around
        the first trigger found, two around the second, and so on.
        """
        found = [t for t in (verdict.trigger, verdict.second) if t is not None]
        limits = [self.family.limits(trigger, self.probe.images) for trigger in found]
        enough, triggers = 15 * self.probe.ease(), []
        for number in range(count):
            least, most = limits[number // 2 % len(limits)]
            free = torch.rand(most.shape, generator=self.generator) < 0.7
            room = least * free, most * free
            triggers.append(self.probe.grow(verdict.target, self.family, *room, enough))
        return triggers

    @torch.no_grad()
    def alive(self, verdict: Verdict) -> bool:
        """Whether the triggers that are kept apart lead images to the class that don't go there.

        There are such only of sparse ones.
        """
        plain = self.logits(self.probe.images).argmax(1)
        others = self.probe.images[plain != verdict.target]
        changed = [self.family.apply(others, trigger) for trigger in self.apart]
        led = [bool(c == verdict.target) for x in changed for c in self.logits(x).argmax(1)]
        return sum(led) > BACK * len(led)

    def weigh(self, changes: list[Change]) -> None:
        """Factors of natural steps: the less clean predictions depend on a mask, the larger.

        1 / (F + the mean of F in its layer), where F is the diagonal of the Fisher information:
        squared gradients of the logits in random directions of covariance diag p − p pᵀ. They
        are scaled so that the first step changes masks by the rate, on the mean of all.
        """
        masks = list(self.masks.values())
        information = [torch.zeros_like(mask) for mask in masks]
        batches = self.phase()
        for batch in batches:
            logits = self.logits(batch.images) / self.recipe.temperature
            p = logits.detach().softmax(1)
            noise = p.sqrt() * torch.randn(p.shape, generator=self.generator)
            direction = noise - p * noise.sum(1, keepdim=True)
            grads = torch.autograd.grad((logits * direction).sum(), masks)
            information = [f + grad**2 for f, grad in zip(information, grads, strict=True)]
        factors = [1 / (f + f.mean()) for f in information]
        grads = torch.autograd.grad(self.mask_loss(batches[0], changes), masks)
        steps = [(f * grad).abs().flatten() for f, grad in zip(factors, grads, strict=True)]
        self.factors = [f / torch.cat(steps).mean() for f in factors]
