"""Several files of one result, which appear together."""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from awm_defense.files.atomic import put_in_place, sync, write_bytes, write_part
from awm_defense.files.door import MIB
from awm_defense.files.json_file import read_json
from awm_defense.files.uninterrupted import uninterrupted

UNFINISHED = ".awm-{}.unfinished"
"""Stands in a folder while a result is written whose sign has the name in the middle."""
LIMIT = 64 * MIB


def check_no_folders(folder: Path, names: Iterable[str]) -> None:
    """Raise OSError where a folder has the name of a file that will be written."""
    for path in (folder / name for name in names):
        if path.is_dir() and not path.is_symlink():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


def check_replaceable(
    folder: Path, names: Sequence[str], *, sign: str, entries: Iterable[str]
) -> None:
    """Raise ValueError where a file that would be replaced is of no result of this project, OSError
    where a folder stands in the way.

    Args:
        folder: that is written to.
        names: of all files that may be written or removed there.
        sign: the one that says that the others belong to a result.
        entries: that a sign of this project has.
    """
    check_no_folders(folder, [*names, UNFINISHED.format(sign)])
    there = [folder / name for name in names if os.path.lexists(folder / name)]
    if there and not (folder / UNFINISHED.format(sign)).is_file():
        try:
            ours = set(entries) <= read_json(folder / sign, limit=LIMIT).keys()
        except (OSError, ValueError):
            ours = False
        if not ours:
            raise ValueError(
                f"out: {there[0]} is of no result that awm wrote, and would be overwritten; "
                "choose another folder"
            )


@contextmanager
def unfinished(folder: Path, sign: str) -> Iterator[None]:
    """Meanwhile files of a result stand in a folder without their sign, and so after a kill."""
    mark = folder / UNFINISHED.format(sign)
    write_bytes(mark, b"")
    yield
    mark.unlink(missing_ok=True)


def write_together(folder: Path, files: Mapping[str, bytes | None], *, sign: str) -> None:
    """Write the files of a result, so that none is taken for a part of another result.

    All are on the disk before any has its name: a full disk leaves what was there before. Then the
    old sign of completeness goes first and the new one comes last. A kill in between leaves a
    folder without a sign. Ctrl-C and other signals wait until all is done.

    Args:
        folder: an existing one.
        files: names to contents; None removes a file of that name.
        sign: the one of `files` that says that all others are there and belong together.

    Raises:
        OSError: naming the file that can't be written, such as a folder of its name.
    """
    contents = {name: data for name, data in files.items() if data is not None}
    check_no_folders(folder, files)
    parts: dict[str, Path] = {}
    with uninterrupted():
        try:
            for name, data in contents.items():
                parts[name] = write_part(folder / name, data)
            with unfinished(folder, sign):
                (folder / sign).unlink(missing_ok=True)
                sync(folder)
                for name in files.keys() - contents.keys():
                    (folder / name).unlink(missing_ok=True)
                for name in sorted(parts, key=lambda name: name == sign):
                    if name == sign:
                        sync(folder)
                    put_in_place(parts[name], folder / name)
                sync(folder)
        finally:
            for part in parts.values():
                part.unlink(missing_ok=True)
