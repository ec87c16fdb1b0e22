"""The defender's few images, as batches."""

from __future__ import annotations

import torch
from torch import Tensor

from awm_defense.data.augment import random_resized_crop_flip
from awm_defense.recipes import Recipe

# One-shot with fresh augmentation, an epoch draws each image as often as fixed copies would.
FRESH_DRAWS = 10


class Batches:
    """Batches of (images, labels, indices), shuffled, augmented as the recipe says."""

    def __init__(
        self, images: Tensor, labels: Tensor, recipe: Recipe, one_shot: bool, seed: int
    ) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.recipe = recipe
        if one_shot and recipe.copies and not recipe.fresh_augmentation:
            copies = [self.augment(images) for _ in range(recipe.copies)]
            images = torch.cat([images, *copies])
            labels = labels.repeat(recipe.copies + 1)
        self.images, self.labels = images, labels
        assert recipe.batch_size is not None
        repeat = FRESH_DRAWS if one_shot and recipe.fresh_augmentation else 1
        self.pool = torch.arange(len(images)).repeat(repeat)
        self.batch = min(recipe.batch_size, len(self.pool))
        self.steps = recipe.passes * (len(self.pool) // self.batch)
        self.queue = torch.empty(0, dtype=torch.int64)

    def augment(self, images: Tensor) -> Tensor:
        return random_resized_crop_flip(
            images, self.generator, scale=(self.recipe.crop_scale, 1.0), flip=self.recipe.flip
        )

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        if len(self.queue) < self.batch:
            order = torch.randperm(len(self.pool), generator=self.generator)
            self.queue = self.pool[order]
        index, self.queue = self.queue[: self.batch], self.queue[self.batch :]
        index = index.to(self.images.device)
        images = self.images[index]
        if self.recipe.fresh_augmentation:
            images = self.augment(images)
        return images, self.labels[index], index
