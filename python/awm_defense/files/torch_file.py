"""What `torch.save` wrote, without `torch.load`.

A child process reads the pickle (`pickles`); the numbers are then read straight from the file into
tensors. Both formats are known: a zip archive with a data.pkl, and what PyTorch wrote before 1.6.
"""

import binascii
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from awm_defense.files.door import CHUNK, MIB, OpenFile
from awm_defense.files.pickles import read_pickle
from awm_defense.files.tensors import NUMBERS, Planned, plan
from awm_defense.files.text import shown

ZIP = b"PK\x03\x04"
LEGACY = re.compile(rb"\x80[\x02-\x05](\x95.{8})?\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.", re.DOTALL)
PICKLE_LIMIT = 32 * MIB
# torch.save never compresses, and a program that packs its file anew gains little. A file of a few
# bytes may not take gigabytes.
INFLATED_LIMIT = 256 * MIB
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 1


@dataclass(frozen=True, eq=False)  # as keys of a dict two of one type are two
class Other:
    """Something that is neither a container nor a tensor nor a number or text; its type."""

    kind: str

    def __str__(self) -> str:
        return f"<{self.kind}>"


class ZipFormat:
    """A zip archive that holds data.pkl, and each storage in a member of its own."""

    def __init__(self, file: OpenFile) -> None:
        self.archive = zipfile.ZipFile(file)
        names = self.archive.namelist()
        if len(set(names)) < len(names):
            raise ValueError("the archive holds two members of one name")
        found = [name for name in names if name.endswith("/data.pkl")]
        if len(found) != 1:
            raise ValueError("it is a zip archive, but torch.save did not write it")
        self.folder = found[0].removesuffix("data.pkl")
        if self.folder + "constants.pkl" in names:
            raise ValueError("it is a TorchScript program; save the state dict of the model")
        order = self.folder + "byteorder"
        if order in names and self._member("byteorder", CHUNK) != b"little":
            raise ValueError("it was written on a big-endian machine; save it there as safetensors")
        self.inflated = 0
        self.size = self.stored = file.size

    @cached_property
    def content(self) -> Any:
        """What was saved, with plans for tensors."""
        pickle = self._member("data.pkl", PICKLE_LIMIT)
        return decode(read_pickle("zip", pickle)[0]["content"])

    def read(self, planned: Planned) -> Tensor:
        """The bytes of a storage."""
        name = f"data/{planned.storage}"
        member = self._find(name)
        size = planned.nbytes
        if member.file_size != size:
            raise ValueError(
                f"{shown(name)}: expected {size} bytes for {planned.numel} numbers, "
                f"got {member.file_size}"
            )
        if member.compress_type == zipfile.ZIP_STORED:
            # Members that overlap could otherwise be more than the file.
            self.stored -= size
        else:
            self.inflated += size
        if self.stored < 0 or self.inflated > INFLATED_LIMIT:
            raise ValueError(f"{shown(name)}: its numbers are many times what the file holds")
        memory = torch.empty(size, dtype=torch.uint8)
        if size:
            self._fill(member, memory.numpy().data)
        return memory

    def _fill(self, member: zipfile.ZipInfo, memory: memoryview) -> None:
        try:
            with self.archive.open(member) as stream:
                for start in range(0, len(memory), CHUNK):
                    part = memory[start : start + CHUNK]
                    read = stream.read(len(part))
                    if len(read) < len(part):
                        raise ValueError(f"{shown(member.filename)}: the file ends in it")
                    part[:] = read
        except zipfile.BadZipFile as error:
            raise ValueError(
                f"{shown(member.filename)} is damaged: {error}; copy the file anew, or save it "
                "anew, with checksums (torch.serialization.set_crc32_options)"
            ) from error

    def _find(self, name: str) -> zipfile.ZipInfo:
        try:
            member = self.archive.getinfo(self.folder + name)
        except KeyError:
            raise ValueError(f"the archive lacks {shown(name)}") from None
        if member.compress_type not in COMPRESSIONS or member.flag_bits & ENCRYPTED:
            raise ValueError(f"{shown(name)} is encrypted, or compressed in an unusual way")
        return member

    def _member(self, name: str, limit: int) -> bytearray:
        member = self._find(name)
        if member.file_size > limit:
            raise ValueError(
                f"{name}: expected at most {limit / MIB:g} MiB, got {member.file_size} bytes"
            )
        content = bytearray(member.file_size)
        self._fill(member, memoryview(content))
        return content


class LegacyFormat:
    """Five pickles, and after them the storages, each with its length before it."""

    def __init__(self, file: OpenFile) -> None:
        self.file, self.size = file, file.size
        head = file.part(0, min(file.size, PICKLE_LIMIT))
        found, _ = read_pickle("legacy", head)
        self.content = decode(found["content"])
        self.places: dict[str, int] = {}
        place = found["start"]
        for key, dtype, numel in found["order"]:
            if int.from_bytes(file.part(place, 8), "little") != numel:
                raise ValueError(f"storage {shown(key)} has another length than its tensors say")
            self.places[key] = place + 8
            place += 8 + numel * NUMBERS[dtype].itemsize

    def read(self, planned: Planned) -> Tensor:
        """The bytes of a storage."""
        if planned.storage not in self.places:
            raise ValueError(f"the file lacks storage {shown(planned.storage)}")
        place = self.places[planned.storage]
        if place + planned.nbytes > self.file.size:
            raise ValueError(f"the file ends in storage {shown(planned.storage)}")
        memory = torch.empty(planned.nbytes, dtype=torch.uint8)
        self.file.fill(memory.numpy().data, place)
        return memory


TorchFile = ZipFormat | LegacyFormat


def open_torch(file: OpenFile) -> TorchFile:
    """What `torch.save` wrote; ValueError where it did not, or where it holds more than data."""
    head = bytes(file.part(0, min(file.size, 32)))
    return ZipFormat(file) if head.startswith(ZIP) else LegacyFormat(file)


def is_torch(head: bytes) -> bool:
    """Whether a file that begins so can be what `torch.save` wrote."""
    return head.startswith(ZIP) or LEGACY.match(head) is not None


def fetch(source: TorchFile, plans: Iterable[Planned]) -> dict[Planned, Tensor]:
    """The tensors of the plans; those that share numbers in the file do so in memory."""
    memory: dict[str, Tensor] = {}
    made: dict[Planned, Tensor] = {}
    for planned in plans:
        # By strides of 0; a copy of it would take the memory.
        if planned.expanded > max(planned.nbytes, source.size):
            raise ValueError(f"a tensor of shape {planned.shape} is more than the whole file holds")
        if planned.storage not in memory:
            memory[planned.storage] = source.read(planned)
        if memory[planned.storage].numel() != planned.nbytes:
            raise ValueError(f"storage {shown(planned.storage)} has two lengths")
        made[planned] = planned.view(memory[planned.storage])
    return made


def fill_in(content: Any, tensors: Mapping[Planned, Tensor]) -> Any:
    """What was saved, with tensors for plans."""
    if isinstance(content, Planned):
        return tensors[content]
    if isinstance(content, dict):
        return {key: fill_in(value, tensors) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(fill_in(value, tensors) for value in content)
    return content


def plans_in(content: Any) -> list[Planned]:
    """All plans in what was saved."""
    if isinstance(content, Planned):
        return [content]
    inner: Iterable[Any] = ()
    if isinstance(content, dict):
        inner = content.values()
    elif isinstance(content, list | tuple):
        inner = content
    return [planned for value in inner for planned in plans_in(value)]


def decode(value: Any) -> Any:
    """What a child answered, as the containers that were saved, with plans for tensors."""
    if not isinstance(value, list):
        return value
    tag, *rest = value
    if tag == "d":
        return {decode(key): decode(inner) for key, inner in rest[0]}
    if tag == "l":
        return [decode(inner) for inner in rest[0]]
    if tag == "t":
        return tuple(decode(inner) for inner in rest[0])
    if tag == "T":
        return plan(*rest)
    if tag == "A":
        dtype, shape, fortran, text = rest
        numbers = np.frombuffer(binascii.a2b_base64(text), dtype)
        return numbers.reshape(shape, order="F" if fortran else "C")
    return Other(str(rest[0]))
