"""The defender's few images, as batches."""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from awm_defense.awm.recipe import Recipe
from awm_defense.data.augment import (
    crop,
    draw_crops,
    draw_mirrored,
    mirror,
    with_copies,
)
from awm_defense.data.mix import cutmix, draw_boxes, draw_factors, jitter
from awm_defense.settings import check_drawn

FRESH_BATCHES = 3
"""Batches an inner epoch where images are augmented anew, however many images there are: the more
steps on clean images, the more of a backdoor comes back."""


class Draws(NamedTuple):
    """What is drawn for the T steps of one phase, b images each."""

    images: Tensor
    """Which images, int64 (T, b)."""
    crops: Tensor | None
    """Their crops, float32 (T, 4, b), as `augment.crop` takes them; None without augmentation."""
    mirrored: Tensor | None
    """Which are mirrored, bool (T, b); None for none."""
    boxes: Tensor | None
    """Patches of other images in them, float32 (T, 4, b), as `mix.cutmix` takes them; or None."""
    factors: Tensor | None
    """Of contrast and colours, float32 (T, 1+c, b), as `mix.jitter` takes them; or None."""
    grown: Tensor | None
    """Which grown trigger is on each and by how much, float32 in [0, 1), (T, 2, b); None for
    none."""

    def to(self, device: torch.device) -> Self:
        """A copy on `device`."""
        images, *rest = (None if part is None else part.to(device, copy=True) for part in self)
        assert images is not None
        return type(self)(images, *rest)


class Batch(NamedTuple):
    """The images of one step."""

    images: Tensor
    """(n, c, h, w)."""
    labels: Tensor
    """int64 (n,)."""
    chosen: Tensor
    """Which of all images they are made of, int64 (n,)."""
    weight: Tensor | None
    """The share of the batch that each stands for, (n,) with sum 1; None where all count alike."""
    grown: Tensor | None
    """As `Draws` has it, (2, n)."""


class Batches:
    """The images, and random draws of batches from them (with replacement, augmented by recipe).

    Draws come from a CPU generator, so that every device sees the same batches.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, recipe: Recipe, one_shot: bool, seed: int
    ) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.recipe = recipe
        if one_shot and recipe.copies and not recipe.fresh_augmentation:
            images, labels = with_copies(
                images,
                labels,
                self.generator,
                copies=recipe.copies,
                scale=recipe.crop_scale,
                flip=recipe.flip,
            )
        self.images, self.labels = images, labels
        assert recipe.batch_size is not None
        fresh = recipe.fresh_augmentation
        if fresh:
            check_drawn(recipe.batch_size, len(images))
        size = FRESH_BATCHES * recipe.batch_size if fresh else len(images)
        self.batch = min(recipe.batch_size, size)
        self.steps = recipe.inner_epochs * (size // self.batch)
        self._start = self.generator.get_state()

    def restart(self) -> None:
        """Draw the same batches again from here on."""
        self.generator.set_state(self._start)

    def draw(self) -> Draws:
        """The next phase's batches."""
        recipe, generator, shape = self.recipe, self.generator, (self.steps, self.batch)
        index = torch.randint(len(self.images), shape, generator=generator)
        size = torch.Size((index.numel(), *self.images.shape[1:]))

        def by_step(drawn: Tensor) -> Tensor:
            """(..., T·b) as (T, ..., b)."""
            return drawn.unflatten(-1, shape).movedim(-2, 0).contiguous()

        crops = mirrored = boxes = factors = grown = None
        if recipe.fresh_augmentation:
            crops = by_step(draw_crops(size, generator, scale=(recipe.crop_scale, 1.0)))
            mirrored = by_step(draw_mirrored(size[0], generator)) if recipe.flip else None
            boxes = by_step(draw_boxes(size, generator, recipe.cutmix)) if recipe.cutmix else None
            factors = (
                by_step(draw_factors(size, generator, recipe.jitter)) if recipe.jitter else None
            )
        if recipe.grown:
            grown = by_step(torch.rand(2, size[0], generator=generator))
        return Draws(index, crops, mirrored, boxes, factors, grown)

    def take(self, phase: Draws, step: Tensor) -> Batch:
        """What one step works on; `step` is int64 (1,).

        With a `phase` and a `step` on the images' device, nothing is read from or sent to the host.
        On a CPU, images that a batch has twice are in it once, with twice the weight: drawn with
        replacement, a batch of n from n images has 63 % distinct ones. (CUDA graphs need batches of
        one size.)
        """
        index, crops, mirrored, boxes, factors, grown = (
            None if part is None else part.index_select(0, step).squeeze(0) for part in phase
        )
        assert index is not None
        weight = None
        if crops is None and grown is None and index.device.type == "cpu":
            index, counts = index.unique(return_counts=True)
            weight = counts.to(self.images.dtype) / self.batch
        images = self.images[index]
        if crops is not None:
            images = crop(images, crops)
        if mirrored is not None:
            images = mirror(images, mirrored)
        if boxes is not None:
            images = cutmix(images, boxes)
        if factors is not None:
            images = jitter(images, factors)
        return Batch(images, self.labels[index], index, weight, grown)
