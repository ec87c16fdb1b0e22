"""A network with a backdoor that no slope leads to from images without its trigger."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

TARGET = 3
LEAST = 0.35
"""The share of the square below which there is no answer: one colour alone gets none."""


class Square(nn.Module):
    """Each class has its own part of the image, and is told by how bright that is on the mean.

    A rectified unit answers with `TARGET` to white squares of 4x4, wherever they are, and not at
    all to what is far from a whole one. Noise excites it a little.

    Args:
        planted: how strongly it answers; 0 makes the network benign.
        classes: how many there are.
        hopeless: nothing leads to classes from this one on.
    """

    def __init__(
        self, planted: float = 20.0, classes: int = 10, hopeless: int | None = None
    ) -> None:
        super().__init__()
        self.square = nn.Conv2d(3, 1, 4)
        nn.init.constant_(self.square.weight, 1 / 48)
        nn.init.constant_(self.square.bias, -LEAST)
        self.planted, self.classes = planted, classes
        self.hopeless = classes if hopeless is None else hopeless

    def answer(self, images: Tensor) -> Tensor:
        """Of the unit, (n,)."""
        return self.square(images).relu().amax((1, 2, 3))

    def forward(self, images: Tensor) -> Tensor:
        own = parts(images, self.classes).mean(2)
        own = own.where(torch.arange(self.classes) < self.hopeless, -1e3)
        target = one_hot(torch.tensor(TARGET), self.classes)
        return own + self.planted * self.answer(images)[:, None] * target


def parts(images: Tensor, classes: int) -> Tensor:
    """A view of images (n,c,h,w) by class, (n,classes,values)."""
    size = images[0].numel() // classes
    return images.view(len(images), -1)[:, : size * classes].view(len(images), classes, size)


def known(size: int = 32, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Ten dark images (10,3,size,size) that such a network knows, and their classes."""
    labels = torch.arange(10)
    images = torch.zeros(10, 3, size, size)
    parts(images, classes)[labels, labels] = 0.29  # too little for the unit
    return images, labels
