"""The one door for files: whatever is read is opened here, and nothing but a regular file is."""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from awm_defense.files.text import PATH, sentence, shown

MIB = 1 << 20
# Neither waits for a pipe's other end, nor takes over a terminal, nor is left to child processes.
FLAGS = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")
)
# What reads at once at most, so that no length that a file claims decides over memory. It also
# bounds the directory of an archive, for which zipfile takes time by the square of its fields.
CHUNK = 8 * MIB
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class TooLargeError(ValueError):
    """A file has more bytes than its reader's `limit`."""


class OpenFile(io.FileIO):
    """A regular file, open for reading; `size` is what it had when it was opened."""

    def __init__(self, descriptor: int, path: Path, size: int) -> None:
        super().__init__(descriptor, "rb")
        self.path = path
        self.size = size

    def read(self, size: int | None = -1, /) -> bytes:
        """As of every file, but at most `CHUNK` bytes."""
        if size is None or size < 0:
            size = max(0, self.size - self.tell())
        if size > CHUNK:
            raise ValueError(f"a part of {size} bytes, where at most {CHUNK} are expected")
        return super().read(size) or b""

    def part(self, offset: int, size: int) -> bytearray:
        """`size` bytes from `offset` on; ValueError where the file ends before."""
        content = bytearray(size)
        self.fill(memoryview(content), offset)
        return content

    def fill(self, memory: memoryview, offset: int) -> None:
        """Read from `offset` on until `memory` (bytes) is full; ValueError where the file ends."""
        if offset + len(memory) > self.size:
            raise ValueError(
                f"expected {len(memory)} bytes at {offset}, the file ends at {self.size}"
            )
        self.seek(offset)
        done = 0
        while done < len(memory):
            count = self.readinto(memory[done : done + CHUNK])
            if not count:
                raise ValueError("it became shorter while it was read")
            done += count


@contextmanager
def open_file(path: Path, limit: int) -> Iterator[OpenFile]:
    """Open a regular file of at most `limit` bytes.

    Raises:
        FileNotFoundError: when there is no such file.
        OSError: when it can't be opened.
        TooLargeError: when it has more bytes.
        ValueError: when it is a pipe, a device, a folder or a socket.
    """
    name = shown(path, PATH)
    try:
        descriptor = os.open(path, FLAGS)
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: no such file") from None
    except OSError as error:
        raise type(error)(f"{name}: can't be opened: {error.strerror}") from None
    except ValueError as error:  # a null byte in the path
        raise ValueError(f"{name}: can't be opened: {error}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            kind = KINDS.get(stat.S_IFMT(found.st_mode), "something else")
            raise ValueError(f"{name}: expected a regular file, got {kind}")
        if found.st_size > limit:
            most, size = f"{limit / MIB:g} MiB", f"{found.st_size / MIB:.0f} MiB"
            if found.st_size < limit + MIB:  # both could read the same
                most, size = f"{limit} bytes", f"{found.st_size} bytes"
            raise TooLargeError(f"{name}: expected at most {most}, got {size}")
        file = OpenFile(descriptor, path, found.st_size)
    except BaseException:
        os.close(descriptor)
        raise
    with file:
        yield file


def read_file(path: Path, limit: int) -> bytearray:
    """All of a regular file of at most `limit` bytes; errors as of `open_file`."""
    with open_file(path, limit) as file:
        try:
            return file.part(0, file.size)
        except (OSError, ValueError, MemoryError) as error:
            raise ValueError(f"{shown(path, PATH)}: can't be read: {sentence(error)}") from error
