"""A file for one of the readers, and whether it is refused as it should be.

The first byte of an input chooses the reader, the rest is the content of the file.
"""

from __future__ import annotations

import resource
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from awm_defense.files import image_child, images, pickle_child, pickles
from awm_defense.files.torch_file import decode
from tests.hostile.case import (
    MEMORY,
    PLACES,
    READERS,
    SECONDS,
    forget_memory,
    highest_memory,
)
from tests.hostile.checkpoints import good_files
from tests.hostile.corpus import all_cases

# Bytes of an input: small ones are tried more often.
LONGEST = 32 << 10
LONGEST_MESSAGE = 1500
# Files that the reader's own process takes all its time for: this one would hang in them.
LONG = "too long"
# What no reader of data has to do with; see Python's table of audit events.
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.", "socket.", "pty.")


def _read_pickle(path: Path) -> Any:
    return decode(pickles.read_pickle("zip", path.read_bytes())[0]["content"])


FUZZED: dict[str, tuple[str, Callable[[Path], Any]]] = {
    **{name: (PLACES[name], read) for name, read in READERS.items()},
    # Alone, as in an archive all places of what follows change with its length.
    "pickle": ("data.pkl", _read_pickle),
}
NAMES = sorted(FUZZED)


class Executed(BaseException):
    """Something was run; no reader can take it for an error of the file."""


class Inside:
    """Stands for `Child`, and calls the function of its program in this process."""

    def __init__(self, program: Path, *arguments: str, patience: float) -> None:
        self.program, self.arguments = program, arguments
        self.given = bytearray()

    def __enter__(self) -> Inside:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, content: bytes | bytearray, *, last: bool = False) -> None:
        """As of `Child`, within the memory that the process would have."""
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = pages * resource.getpagesize() + pickle_child.MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        try:
            if self.program == pickles.PROGRAM:
                reply = pickle_child.reply(self.arguments[0], bytes(content))
            else:
                numbers = map(int, self.arguments[1:])
                reply = image_child.answer(Image, bytes(content[8:]), *numbers)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        self.given += reply

    def read(self, size: int) -> bytes:
        """So many bytes of the answer."""
        if len(self.given) < size:
            raise ValueError("the answer ended")
        found = bytes(self.given[:size])
        del self.given[:size]
        return found

    def expect(self) -> None:
        """As of `Child`, whose time for an answer begins anew."""


def forbid(event: str, _: object) -> None:
    """Raise what no reader catches, for what none has to do with."""
    if event.startswith(FORBIDDEN):
        raise Executed(event)


def stay_inside() -> None:
    """Read everything in this process, which may then start no other."""
    for module in (pickles, images):
        vars(module)["Child"] = Inside
    sys.addaudithook(forbid)


def ignore_checksums() -> None:
    """An attacker can compute them; chance can not."""
    zipfile.ZipExtFile._update_crc = lambda self, data: None  # type: ignore[attr-defined]


def prepare(folder: Path) -> None:
    """Write the files that some readers want beside the one that they are tried with."""
    for case in all_cases():
        path = folder / case.reader / case.lies
        if case.lies == PLACES[case.reader] and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            case.make(path)
            if not path.is_file():  # a folder, a pipe
                shutil.rmtree(folder / case.reader)
    (folder / "pickle").mkdir()


def seeds(folder: Path) -> Iterator[bytes]:
    """Inputs to begin with: good checkpoints, and the small files of the corpus."""
    for content in good_files().values():
        yield _tagged("checkpoint", content)
    for number, case in enumerate(all_cases()):
        if case.lies != PLACES[case.reader] or LONG in (case.says or ""):
            continue
        path = folder / str(number) / case.lies
        path.parent.mkdir(parents=True)
        case.make(path)
        if not path.is_file() or path.stat().st_size > LONGEST:
            continue
        yield _tagged(case.reader, path.read_bytes())
        with suppress(KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
            packed = zipfile.ZipFile(path).read("net/data.pkl")
            if len(packed) <= LONGEST:
                yield _tagged("pickle", packed)


def _tagged(reader: str, content: bytes) -> bytes:
    return bytes([NAMES.index(reader)]) + content


def check(data: bytes, folder: Path) -> None:
    """Read an input; anything but success or a refusal in one sentence is raised."""
    reader = NAMES[data[0] % len(NAMES)] if data else NAMES[0]
    lies, read = FUZZED[reader]
    path = folder / reader / lies
    path.write_bytes(data[1:])
    held, started = forget_memory(), time.process_time()
    try:
        read(path)
    except (ValueError, OSError) as error:
        said = str(error)
        assert said.isprintable(), f"not printable: {said!r}"
        assert len(said) < LONGEST_MESSAGE, f"{len(said)} characters: {said[:200]}"
        assert reader == "pickle" or str(folder) in said, f"names no file: {said}"
    assert highest_memory() - held < MEMORY, "too much memory"
    assert time.process_time() - started < SECONDS, "too slow"
