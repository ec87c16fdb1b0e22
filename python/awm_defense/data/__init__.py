"""Data sets, the defender's draw from them, and augmentation."""

import os
from collections.abc import Callable
from pathlib import Path

from awm_defense.data.augment import random_resized_crop_flip, random_shift_flip
from awm_defense.data.cifar10 import load_cifar10
from awm_defense.data.dataset import Dataset, as_float
from awm_defense.data.digits import load_digits
from awm_defense.data.gtsrb import load_gtsrb
from awm_defense.data.split import draw_defender, stratified_split
from awm_defense.lookup import look_up

__all__ = [
    "DATASETS",
    "IN_A_PACKAGE",
    "Dataset",
    "as_float",
    "draw_defender",
    "load_dataset",
    "random_resized_crop_flip",
    "random_shift_flip",
    "stratified_split",
]

DATA_DIR_VARIABLE = "AWM_DATA_DIR"

IN_A_PACKAGE = ("digits",)
"""Those that come with a package that is always there, and lie in no folder."""
# Each reads from a folder, unless it is in a package.
DATASETS: dict[str, Callable[[Path | None], Dataset]] = {
    "cifar10": load_cifar10,
    "digits": lambda _: load_digits(),
    "gtsrb": load_gtsrb,
}


def load_dataset(name: str, data_dir: Path | None = None) -> Dataset:
    """Read a data set.

    Args:
        name: a key of `DATASETS`.
        data_dir: folder with the data set in its official layout; by default the environment
            variable AWM_DATA_DIR. The digits need none.

    Raises:
        ValueError: for an unknown name or a file that is not what it should be.
        FileNotFoundError: when files are missing; the message says where they were expected.
    """
    load = look_up("name", name, DATASETS)
    if data_dir is None and os.environ.get(DATA_DIR_VARIABLE):
        data_dir = Path(os.environ[DATA_DIR_VARIABLE])
    return load(data_dir)
