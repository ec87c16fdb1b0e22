"""A batch of CIFAR-10, as its "python version" holds it: a pickle."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from awm_defense.files.pickles import read_pickle


def read_batch(content: bytes | bytearray) -> tuple[NDArray[np.uint8], list[int]]:
    """The bytes of the images, in the shape that they have in the file, and the labels.

    Raises:
        ValueError: when it is a pickle of something else.
    """
    found, payload = read_pickle("batch", content)
    shape, labels = _sizes(found.get("shape")), _sizes(found.get("labels"))
    if math.prod(shape) != len(payload):
        raise ValueError(f"an array {tuple(shape)} of {len(payload)} bytes")
    # A copy: what a pipe gave can't be written to.
    pixels = np.frombuffer(bytearray(payload), dtype=np.uint8)
    return pixels.reshape(shape, order="F" if found.get("fortran") else "C"), labels


def _sizes(value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        raise ValueError("no shape and no labels")
    return value
