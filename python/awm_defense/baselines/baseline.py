"""What a defense works with, and what it gives back."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from awm_defense.data.augment import random_shift_flip
from awm_defense.networks.logits import Reading
from awm_defense.settings import Settings, check_drawn
from awm_defense.working.compute import Compute

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Augment:
    """Random shifts of up to `padding` pixels, and flips."""

    padding: int
    flip: bool

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return random_shift_flip(images, generator, padding=self.padding, flip=self.flip)


@dataclass(frozen=True)
class Task:
    """A network to purify, and the images to do it with."""

    model: nn.Module
    """A copy in eval mode, for the defense to change."""
    images: Tensor
    """(n,C,H,W), float32 in [0,1], on the model's device; with fixed augmented copies when there
    is at most one image a class."""
    labels: Tensor
    """(n,) int64."""
    normalise: nn.Module
    """From pixels to what the model is fed."""
    read: Reading
    """From what the model returns to logits."""
    compute: Compute
    generator: torch.Generator
    """Of all that is random, on the CPU."""
    progress: bool = False
    notes: list[str] = field(default_factory=list)

    def logits(self, network: Callable[[Tensor], Any], images: Tensor) -> Tensor:
        """Of images in pixel space, in their dtype."""
        images = images.contiguous(memory_format=self.compute.memory_format)
        with self.compute.autocast(images.device):
            return self.read(network(self.normalise(images))).to(images.dtype)

    def classifier(self) -> nn.Module:
        """From pixels to logits, with the model itself inside."""
        return nn.Sequential(self.normalise, self.model, self.read)

    def batches(self, size: int, steps: int, augment: Augment) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of `steps` batches, drawn with replacement and augmented anew."""
        check_drawn(size, len(self.images))
        for _ in tqdm(range(steps), "purify", unit="step", disable=not self.progress):
            index = torch.randint(len(self.images), (size,), generator=self.generator)
            index = index.to(self.images.device)
            yield augment(self.images[index], self.generator), self.labels[index]

    @torch.no_grad()
    def accuracy(self, network: Callable[[Tensor], Any]) -> float:
        """Of the images at hand, in percent."""
        found = [self.logits(network, x).argmax(1) for x in self.images.split(EVALUATION_BATCH)]
        return 100 * float((torch.cat(found) == self.labels).double().mean())


@dataclass(frozen=True)
class Erased:
    """What a defense found; the model is changed in place."""

    history: list[dict[str, float]]
    masks: dict[str, Tensor] = field(default_factory=dict)
    trigger: Tensor | None = None


@dataclass(frozen=True)
class Baseline(Settings, ABC):
    """The hyper-parameters of a rival defense, which knows how to run itself."""

    half: ClassVar[bool] = True
    """Whether bfloat16 is precise enough for it."""

    @abstractmethod
    def erase(self, task: Task) -> Erased:
        """Purify `task.model` in place."""
