"""Several files of one result, which appear together."""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import file_digest, sha256
from itertools import count
from pathlib import Path

from awm_defense.files.atomic import put_in_place, sync, write_json, write_part
from awm_defense.files.door import MIB, open_file
from awm_defense.files.json_file import read_json
from awm_defense.files.uninterrupted import uninterrupted

UNFINISHED = ".awm-{}.unfinished"
"""Stands in a folder while a result is written whose sign has the name in the middle. JSON of the
SHA-256 that each of its files has before and afterwards, by their names."""
LIMIT = 64 * MIB
# No file of a result has as many bytes.
HUGE = 1 << 50
FILES = "files"
"""The entry of a sign that lists the files of its result."""


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

    A result consists of the files that its sign lists; one of an older version lists none, and all
    of the names are taken for its own. One that a kill cut off consists of what `cut_off` finds.

    Args:
        folder: that is written to.
        names: of all files that may be written or removed there.
        sign: the one that says that the others belong to a result.
        entries: that a sign of this project has.
    """
    check_no_folders(folder, [*names, UNFINISHED.format(sign)])
    there = [name for name in names if os.path.lexists(folder / name)]
    if there:
        own = _own_files(folder / sign, names, set(entries)) | cut_off(folder, sign, there)
        for name in there:
            if name not in own:
                raise ValueError(
                    f"out: {folder / name} is of no result that awm wrote, and would be "
                    "overwritten; choose another folder"
                )


def _own_files(sign: Path, names: Sequence[str], entries: set[str]) -> set[str]:
    """Which of the names belong to the result of a sign; none where it is no sign of ours."""
    try:
        found = read_json(sign, limit=LIMIT)
    except (OSError, ValueError):
        return set()
    listed = found.get(FILES, list(names))
    if not entries <= found.keys() or not isinstance(listed, list):
        return set()
    return {sign.name, *(name for name in names if name in listed)}


def cut_off(folder: Path, sign: str, names: Iterable[str]) -> set[str]:
    """Which of these files are as the run that wrote them says, where a kill has cut it off."""
    try:
        said = read_json(folder / UNFINISHED.format(sign))
    except (OSError, ValueError):
        return set()
    listed = {name: said[name] for name in names if isinstance(said.get(name), list)}
    return {name for name, digests in listed.items() if _digest(folder / name) in digests}


def _digest(path: Path) -> str | None:
    """SHA-256 of a file; None where there is none that can be read."""
    try:
        with open_file(path, HUGE) as file:
            return file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None


def new_folder(folder: Path) -> Path:
    """Make a folder in `folder`, for what finds its place there taken."""
    for number in count(1):
        made = folder / f"awm-{number}"
        try:
            made.mkdir()
        except FileExistsError:
            continue
        return made
    raise AssertionError


@contextmanager
def unfinished(folder: Path, sign: str, files: Mapping[str, bytes | None]) -> Iterator[None]:
    """Meanwhile files of a result stand in a folder without their sign, and so after a kill.

    Args:
        folder: that is written to.
        sign: of the result.
        files: names to contents, as of `write_together`; what has one of the names is ours.
    """
    mark = folder / UNFINISHED.format(sign)
    after = {name: sha256(data).hexdigest() for name, data in files.items() if data is not None}
    both = {name: [_digest(folder / name), after.get(name)] for name in files}
    write_json(mark, {name: [one for one in digests if one] for name, digests in both.items()})
    yield
    mark.unlink(missing_ok=True)


def write_together(
    folder: Path,
    files: Mapping[str, bytes | None],
    *,
    sign: str,
    entries: Iterable[str] | None = None,
) -> Path:
    """Write the files of a result, so that none is taken for a part of another result.

    All are on the disk before any has its name: a full disk leaves what was there before. Then the
    old sign of completeness goes first and the new one comes last. A kill in between leaves a
    folder without a sign. Ctrl-C and other signals wait until all is done.

    Args:
        folder: an existing one.
        files: names to contents; None removes a file of that name.
        sign: the one of `files` that says that all others are there and belong together.
        entries: that a sign of this project has. Where something else has one of the names, which
            may have come during a long run, all is written into a new folder in `folder`. By
            default nobody looks.

    Returns:
        The folder that was written to.

    Raises:
        OSError: naming the file that can't be written, such as a folder of its name.
    """
    contents = {name: data for name, data in files.items() if data is not None}
    if entries is None:
        check_no_folders(folder, files)
    parts: dict[str, Path] = {}
    with uninterrupted():
        try:
            for name, data in contents.items():
                parts[name] = write_part(folder / name, data)
            if entries is not None:
                try:
                    check_replaceable(folder, list(files), sign=sign, entries=entries)
                except (OSError, ValueError):
                    folder = new_folder(folder)
            with unfinished(folder, sign, files):
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
    return folder
