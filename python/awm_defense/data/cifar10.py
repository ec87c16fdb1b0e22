"""CIFAR-10 (Krizhevsky, 2009) from the layout of its "python version"."""

import hashlib
import math
import warnings
from pathlib import Path

import torch
from torch import Tensor

from awm_defense.data.dataset import Dataset
from awm_defense.files.batch import read_batch
from awm_defense.files.door import MIB, read_file
from awm_defense.files.text import PATH, shown

FOLDER = "cifar-10-batches-py"
TRAIN_FILES = [f"data_batch_{number}" for number in range(1, 6)]
TEST_FILES = ["test_batch"]
# Of the official files.
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
# Of one image; an official file has 30 MiB.
SHAPE = (3, 32, 32)
LIMIT = 128 * MIB
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def load_cifar10(data_dir: Path | None) -> Dataset:
    """50,000 training and 10,000 test images of 10 classes, kept as uint8.

    Files other than the official ones (by MD5) are read with a warning.

    Args:
        data_dir: the folder that holds `cifar-10-batches-py`.

    Raises:
        FileNotFoundError: when that folder or a file in it is missing.
        ValueError: when a file is no CIFAR-10 batch.
    """
    where = (
        "unpack the CIFAR-10 python version from its official page "
        f"(www.cs.toronto.edu/~kriz/cifar.html), so that {FOLDER} is there"
    )
    if data_dir is None:
        raise FileNotFoundError(
            f"cifar10: no data folder given (data_dir or $AWM_DATA_DIR); {where}"
        )
    folder = data_dir / FOLDER
    missing = [name for name in TRAIN_FILES + TEST_FILES if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"cifar10: {folder} lacks {', '.join(missing)}; {where}")
    train_images, train_labels = _read([folder / name for name in TRAIN_FILES])
    test_images, test_labels = _read([folder / name for name in TEST_FILES])
    return Dataset(
        "cifar10",
        train_images,
        train_labels,
        test_images,
        test_labels,
        CLASSES,
        # Longer shifts push triggers near the border, like those of most attacks, out of the image.
        crop_padding=2,
        flip=True,
    )


def _read(paths: list[Path]) -> tuple[Tensor, Tensor]:
    images: list[Tensor] = []
    labels: list[int] = []
    for path in paths:
        content = read_file(path, LIMIT)
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != MD5[path.name]:
            name = shown(path, PATH)
            warnings.warn(f"{name}: not the official file (another MD5)", stacklevel=3)
        try:
            pixels, classes = read_batch(content)
            if pixels.shape != (len(classes), math.prod(SHAPE)):
                raise ValueError(f"an array {pixels.shape} for {len(classes)} labels")
            if not all(label < len(CLASSES) for label in classes):
                raise ValueError(f"labels beyond {len(CLASSES) - 1}")
        except ValueError as error:
            raise ValueError(
                f"{shown(path, PATH)}: expected a CIFAR-10 batch, got {error}"
            ) from error
        images.append(torch.from_numpy(pixels.reshape(-1, *SHAPE)))
        labels += classes
    if not labels:
        where = paths[0] if len(paths) == 1 else paths[0].parent
        listed = ", ".join(path.name for path in paths)
        raise ValueError(f"{shown(where, PATH)}: expected at least one image in {listed}, got none")
    return torch.cat(images), torch.tensor(labels, dtype=torch.int64)
