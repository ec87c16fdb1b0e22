"""What every data set looks like."""

from dataclasses import dataclass

import torch
from torch import Tensor

from awm_defense.data.split import draw_defender


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images of a training and a test part; no image is in both.

    Attributes:
        name: the name it is loaded by.
        train_images, test_images: (N,3,32,32), uint8 in [0,255] or float32 in [0,1].
        train_labels, test_labels: (N,) int64, indices into `classes`.
        classes: the names of the classes.
        crop_padding: by how many pixels a training image may be shifted and still show its class.
        flip: whether a mirrored image still shows its class.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: list[str]
    crop_padding: int = 0
    flip: bool = False

    def train(self) -> tuple[Tensor, Tensor]:
        """Training images, float32 in [0,1], and their labels."""
        return as_float(self.train_images), self.train_labels

    def test(self) -> tuple[Tensor, Tensor]:
        """Test images, float32 in [0,1], and their labels."""
        return as_float(self.test_images), self.test_labels

    def draw(
        self, *, per_class: int | None = None, n: int | None = None, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """A defender's few training images, float32 in [0,1], and labels (`draw_defender`)."""
        images, labels, _ = draw_defender(
            self.train_images, self.train_labels, per_class=per_class, n=n, seed=seed
        )
        return as_float(images), labels


def as_float(images: Tensor) -> Tensor:
    """Images of type uint8 as float32 in [0,1]; others as they are."""
    # In place: many images take gigabytes.
    return images.float().div_(255) if images.dtype == torch.uint8 else images
