"""Images and arrays in files."""

import math
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from awm_defense.files.atomic import write_bytes
from awm_defense.files.door import MIB, OpenFile, open_file
from awm_defense.files.encoded import as_png
from awm_defense.files.images import open_image
from awm_defense.files.text import PATH, sentence, shown

LIMIT = 64 * MIB
NPY = b"\x93NUMPY"
ZIP = b"PK"
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# Numbers that float32 can stand for; neither complex ones, dates nor Python objects.
KINDS = "fiub"


def read_image(path: Path) -> Tensor:
    """An image file as float32 RGB (3,H,W) in [0,1]; errors as of `open_image`."""
    pixels = np.array(open_image(path), dtype=np.float32)
    pixels /= 255  # in place: a large image has 200 MB
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_array(path: Path, *, limit: int = LIMIT) -> Tensor:
    """An NPY file of numbers as float32.

    Args:
        path: the file; arrays of Python objects are refused, never unpickled.
        limit: bytes that the file may have.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no array of finite numbers.
    """
    with open_file(path, limit) as file:
        try:
            return torch.from_numpy(_read(file))
        except Exception as error:  # a broken or hostile file can fail in any way
            raise ValueError(
                f"{shown(path, PATH)}: expected an array of numbers (NPY), {sentence(error)}"
            ) from error


def write_image(path: Path, image: Tensor) -> None:
    """An image (3,H,W) in [0,1] as an 8-bit PNG."""
    pixels = (image.cpu() * 255).round().to(torch.uint8).permute(1, 2, 0)
    write_bytes(path, as_png(pixels.numpy()))


def _read(file: OpenFile) -> np.ndarray:
    head = file.read(len(NPY))
    if head.startswith(ZIP):
        raise ValueError("got a zip archive, such as NPZ; save the one array in it with numpy.save")
    if head != NPY:
        raise ValueError(f"got a file that begins with {head!r}")
    version = tuple(file.read(2))
    if version not in HEADERS:
        raise ValueError(f"got NPY of version {version}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they would show text of the file
        try:
            shape, fortran, dtype = HEADERS[version](file)
        except Exception as error:  # what is no header can fail in any way
            raise ValueError("its header is broken") from error
    if dtype.kind not in KINDS or dtype.itemsize > 8:
        raise ValueError(f"got one of {'Python objects' if dtype.hasobject else dtype}")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"got the shape {shape}")
    start = file.tell()
    wanted, there = math.prod(shape) * dtype.itemsize, file.size - start
    if wanted != there:
        raise ValueError(f"its shape {shape} takes {wanted} bytes, got {there}")
    flat = np.frombuffer(file.part(start, there), dtype=dtype)
    with np.errstate(over="ignore"):  # what is too large is infinite, and refused
        array = flat.reshape(shape, order="F" if fortran else "C").astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError("got NaN or infinite values")
    return array
