"""The defender's few images, as batches."""

from __future__ import annotations

import torch
from torch import Tensor

from awm_defense.data.augment import random_resized_crop_flip
from awm_defense.recipes import Recipe

FRESH_DRAWS = 10


class Batches:
    """Batches of (images, labels, indices): drawn with replacement, augmented by recipe."""

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
        # Fresh augmentation needs as many draws as the fixed copies would make images.
        size = len(images) * (FRESH_DRAWS if one_shot and recipe.fresh_augmentation else 1)
        self.batch = min(recipe.batch_size, size)
        self.steps = recipe.passes * (size // self.batch)

    def augment(self, images: Tensor) -> Tensor:
        return random_resized_crop_flip(
            images, self.generator, scale=(self.recipe.crop_scale, 1.0), flip=self.recipe.flip
        )

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        index = torch.randint(len(self.images), (self.batch,), generator=self.generator)
        index = index.to(self.images.device)
        images = self.images[index]
        if self.recipe.fresh_augmentation:
            images = self.augment(images)
        return images, self.labels[index], index
