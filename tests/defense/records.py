"""Folders as BackdoorBench leaves them, with networks and images that nobody trained on."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

TRAIN, TEST, TARGET = 4, 2, 0
"""Images of each class in a batch, in the test batch; the class that triggers send to."""

Pixels = NDArray[np.uint8]


class Tiny(nn.Module):
    """A small network in the place of a large one of BackdoorBench."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8 * 16, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(images)))
        return self.linear(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))


def pictures(labels: list[int], seed: int) -> Pixels:
    """Images (N,32,32,3) of these classes, by which one can tell them."""
    noise = np.random.default_rng(seed).integers(0, 40, (len(labels), 32, 32, 3))
    for image, label in zip(noise, labels, strict=True):
        image[3 * label : 3 * label + 3] += 200
    return noise.astype(np.uint8)


def triggered(image: Pixels) -> Pixels:
    """An image with a white square in its corner."""
    image = image.copy()
    image[28:, 28:] = 255
    return image


def write_cifar10(folder: Path) -> tuple[Pixels, list[int]]:
    """A small CIFAR-10 in its official layout; returns its test images."""
    folder = folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for seed, name in enumerate(names):
        labels = list(range(10)) * (TEST if name == "test_batch" else TRAIN)
        images = pictures(labels, seed)
        data = images.transpose(0, 3, 1, 2).reshape(len(labels), -1)
        (folder / name).write_bytes(pickle.dumps({b"data": data, b"labels": labels}, 2))
    return images, labels


def state(folder: Path, images: Pixels, labels: list[int], ending: str) -> dict[str, Any]:
    """What BackdoorBench keeps of poisoned images, which are put into the folder."""
    data: dict[Any, Any] = {}
    for index in np.arange(len(labels)):
        label = labels[index]
        if label == TARGET:
            continue
        picture = Image.fromarray(triggered(images[index]))
        if not ending:
            data[index] = (picture, TARGET, label)
            continue
        path = folder / str(label) / f"{index}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        data[index] = {"path": f"./{path}", "other_info": [TARGET, label]}
    container = {"save_folder_path": str(folder), "data_dict": data, "save_file_format": ending}
    return {
        "bd_data_container": container,
        "getitem_all": True,
        "getitem_all_switch": False,
        "original_index_array": np.array(list(data)),
        "poison_indicator": (np.array(labels) != TARGET).astype(np.float64),
        "save_folder_path": str(folder),
    }


def write_record(
    home: Path,
    model: nn.Module,
    *,
    name: str = "badnet_1",
    ending: str = ".png",
    legacy: bool = False,
    **more: Any,
) -> Path:
    """`home`/record/NAME and `home`/data/cifar10; returns the former.

    `ending` is that of the triggered images, empty where they are kept in the file itself.
    """
    record = home / "record" / name
    record.mkdir(parents=True)
    images, labels = write_cifar10(home / "data" / "cifar10")
    said = {
        "model_name": "preactresnet18",
        "num_classes": 10,
        "model": model.state_dict(),
        "data_path": "../data/cifar10",
        "img_size": [32, 32, 3],
        "clean_data": "cifar10",
        "bd_train": state(record / "bd_train_dataset", images[:10], labels[:10], ending),
        "bd_test": state(record / "bd_test_dataset", images, labels, ending),
    }
    content = {key: value for key, value in {**said, **more}.items() if value is not ...}
    path = record / "attack_result.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return record
