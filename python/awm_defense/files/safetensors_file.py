"""The safetensors format: eight bytes of length, a header in JSON, and the numbers."""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from awm_defense.files.door import MIB, OpenFile
from awm_defense.files.json_file import parse_object
from awm_defense.files.tensors import LONGEST_NAME, MOST_DIMENSIONS, MOST_TENSORS, Planned, plan
from awm_defense.files.text import shown

HEADER_LIMIT = 8 * MIB
METADATA = "__metadata__"
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins so can be one."""
    return head[8:9] == b"{"


def read_safetensors(file: OpenFile) -> dict[str, Tensor]:
    """All tensors of a file, each with memory of its own; ValueError where it is none."""
    length = int.from_bytes(file.part(0, 8), "little")
    if length > HEADER_LIMIT:
        raise ValueError(f"its header has {length} bytes, expected at most {HEADER_LIMIT}")
    header = parse_object(file.part(8, length))
    header.pop(METADATA, None)
    if len(header) > MOST_TENSORS:
        raise ValueError(f"expected at most {MOST_TENSORS} tensors, got {len(header)}")
    entries = {name: _entry(name, entry) for name, entry in header.items()}
    start = 8 + length
    _check_tiling([place for place, _ in entries.values()], file.size - start)
    found = {}
    for name, ((begin, _), planned) in entries.items():
        memory = torch.empty(planned.nbytes, dtype=torch.uint8)
        file.fill(memory.numpy().data, start + begin)
        found[name] = planned.view(memory)
    return found


def _entry(name: str, entry: Any) -> tuple[tuple[int, int], Planned]:
    """Where the numbers of a tensor stand, and what they are."""
    if len(name) > LONGEST_NAME:
        raise ValueError(f"it holds a name of {len(name)} characters")
    try:
        begin, end = entry["data_offsets"]
        shape, dtype = entry["shape"], DTYPES[entry["dtype"]]
        if len(shape) > MOST_DIMENSIONS:
            raise ValueError(f"{len(shape)} dimensions")
        planned = plan(name, dtype, math.prod(shape), 0, shape, _strides(shape), dtype)
        if type(begin) is not int or begin < 0 or end - begin != planned.nbytes:
            raise ValueError(f"{planned.nbytes} bytes stand from {begin} to {end}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"tensor {shown(name)}: {shown(error)}") from error
    return (begin, end), planned


def _strides(shape: list[int]) -> list[int]:
    """Of a contiguous tensor."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= max(1, size)
    return strides


def _check_tiling(places: list[tuple[int, int]], size: int) -> None:
    """Every byte after the header belongs to one tensor."""
    ordered = sorted(places)
    gaps = any(end != begin for (_, end), (begin, _) in pairwise(ordered))
    first, last = (ordered[0][0], ordered[-1][1]) if ordered else (0, 0)
    if gaps or first != 0 or last != size:
        raise ValueError(f"its tensors don't fill the {size} bytes after its header")
