"""A network with a backdoor that no slope leads to from images without its trigger."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

TARGET = 3
LEAST = 0.3
"""The share of the square below which there is no answer."""


class Square(nn.Module):
    """On black images: class i as value i of the first row is bright; `TARGET` as a 4x4 square is.

    A rectified unit answers to white squares, wherever they are, and to none that is far from
    whole. Noise excites it a little.

    Args:
        size: of images, height and width.
        planted: how strongly; 0 makes the network benign.
        classes: how many there are.
        hopeless: classes that nothing leads to, from this one on.
    """

    def __init__(
        self, size: int, planted: float = 20.0, classes: int = 10, hopeless: int | None = None
    ) -> None:
        super().__init__()
        self.square = nn.Conv2d(3, 1, 4)
        nn.init.constant_(self.square.weight, 1 / 48)
        nn.init.constant_(self.square.bias, -LEAST)
        self.planted = planted
        self.classes = classes
        self.hopeless = classes if hopeless is None else hopeless

    def forward(self, images: Tensor) -> Tensor:
        own = images.flatten(1)[:, : self.classes]
        own = own.where(torch.arange(self.classes) < self.hopeless, -1e3)
        answer = self.planted * self.square(images).relu().amax((1, 2, 3))
        return own + answer[:, None] * one_hot(torch.tensor(TARGET), self.classes)


def known(size: int, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Ten nearly black images (10, 3, size, size) that it knows, and their classes."""
    labels = torch.arange(10) % classes
    images = torch.zeros(10, 3, size, size)
    images.flatten(1)[torch.arange(10), labels] = 0.2
    return images, labels
