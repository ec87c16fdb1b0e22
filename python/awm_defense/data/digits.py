"""Handwritten digits that ship inside scikit-learn: data without a download."""

import torch
import torch.nn.functional as F

from awm_defense.data.dataset import Dataset
from awm_defense.data.split import stratified_split

# The split is part of the data set, so that numbers of different runs can be compared.
SPLIT_SEED = 0


def load_digits() -> Dataset:
    """The 1797 digits of 8x8 pixels, enlarged to 32x32 RGB; half of each class is for testing."""
    from sklearn.datasets import load_digits as read_digits

    pixels, targets = read_digits(return_X_y=True)
    grey = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16
    images = F.interpolate(grey, size=(32, 32), mode="bilinear").repeat(1, 3, 1, 1)
    labels = torch.from_numpy(targets).long()
    train, test = stratified_split(labels, test_share=0.5, seed=SPLIT_SEED)
    return Dataset(
        name="digits",
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        classes=[str(digit) for digit in range(10)],
    )
