"""Images and arrays in files."""

import math
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from awm_defense.files.atomic import write_bytes
from awm_defense.files.door import CHUNK, MIB, OpenFile, open_file
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
# Of files of many images: bytes in all, and bytes that compressed arrays may take in memory, where
# images of bytes take five times as much when they are worked with.
IMAGES_LIMIT, INFLATED_LIMIT = 4096 * MIB, 160 * MIB
MOST_ARRAYS = 100
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 1

Numbers: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"


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
            with np.errstate(over="ignore"):  # what is too large is infinite, and refused
                array = _read(file).astype(np.float32)
            if not np.isfinite(array).all():
                raise ValueError("got NaN or infinite values")
            return torch.from_numpy(array)
        except Exception as error:  # a broken or hostile file can fail in any way
            raise ValueError(
                f"{shown(path, PATH)}: expected an array of numbers (NPY), {sentence(error)}"
            ) from error


def read_arrays(path: Path, *, limit: int = IMAGES_LIMIT) -> dict[str, Tensor]:
    """The arrays of numbers in an NPZ file by their names, or the one in an NPY file.

    Args:
        path: the file; arrays of Python objects are refused, never unpickled.
        limit: bytes that the file may have.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it holds something else than arrays of finite numbers.
    """
    with open_file(path, limit) as file:
        try:
            zipped = bytes(file.part(0, min(file.size, len(ZIP)))) == ZIP
            file.seek(0)
            arrays = _read_zip(file) if zipped else {"array": _read(file)}
            # PyTorch knows numbers in the machine's own byte order.
            return {
                name: torch.from_numpy(np.asarray(array, array.dtype.newbyteorder("=")))
                for name, array in arrays.items()
            }
        except Exception as error:  # a broken or hostile file can fail in any way
            raise ValueError(
                f"{shown(path, PATH)}: expected arrays of numbers (NPZ, NPY), {sentence(error)}"
            ) from error


def write_image(path: Path, image: Tensor) -> None:
    """An image (3,H,W) in [0,1] as an 8-bit PNG."""
    write_bytes(path, image_as_png(image))


def image_as_png(image: Tensor) -> bytes:
    """The content of the file that `write_image` writes."""
    pixels = (image.cpu() * 255).round().to(torch.uint8).permute(1, 2, 0)
    return as_png(pixels.numpy())


def _read_zip(file: OpenFile) -> dict[str, Numbers]:
    stored, inflated = file.size, INFLATED_LIMIT
    arrays: dict[str, Numbers] = {}
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > MOST_ARRAYS:
            raise ValueError(f"expected at most {MOST_ARRAYS} arrays, got {len(members)}")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"the archive holds two arrays called {shown(name)}")
            if member.compress_type not in COMPRESSIONS or member.flag_bits & ENCRYPTED:
                raise ValueError(f"{shown(name)} is encrypted, or compressed in an unusual way")
            if member.compress_type == zipfile.ZIP_STORED:
                stored -= member.file_size  # members that overlap could be more than the file
            else:
                inflated -= member.file_size
            if stored < 0 or inflated < 0:
                raise ValueError(f"{shown(name)}: its numbers are many times what the file holds")
            arrays[name] = _read_member(archive, member)
    return arrays


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Numbers:
    with archive.open(member) as stream:
        shape, fortran, dtype = _header(stream)
        wanted, there = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
        if wanted != there:
            raise ValueError(f"its shape {shape} takes {wanted} bytes, got {there}")
        content = bytearray(wanted)
        memory = memoryview(content)
        for start in range(0, wanted, CHUNK):
            part = memory[start : start + CHUNK]
            read = stream.read(len(part))
            if len(read) < len(part):
                raise ValueError(f"{shown(member.filename)}: the file ends in it")
            part[:] = read
    return _shaped(content, shape, fortran, dtype)


def _read(file: OpenFile) -> Numbers:
    shape, fortran, dtype = _header(file)
    start = file.tell()
    wanted, there = math.prod(shape) * dtype.itemsize, file.size - start
    if wanted != there:
        raise ValueError(f"its shape {shape} takes {wanted} bytes, got {there}")
    return _shaped(file.part(start, there), shape, fortran, dtype)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, "np.dtype[Any]"]:
    """Shape, whether in Fortran's order, and type of the numbers that follow."""
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
    return shape, fortran, dtype


def _shaped(
    content: bytes | bytearray, shape: tuple[int, ...], fortran: bool, dtype: "np.dtype[Any]"
) -> Numbers:
    array = np.frombuffer(content, dtype=dtype).reshape(shape, order="F" if fortran else "C")
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("got NaN or infinite values")
    return array
