"""The folder that a run writes to, and that no other run writes to meanwhile."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from awm_defense.files.atomic import remove_parts

LOCK = ".awm.lock"


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Make a folder, if need be, and keep other runs out of it meanwhile.

    What a killed run left half written is removed. A folder that was made here and stays empty is
    removed in the end.

    Raises:
        OSError: naming the folder, when it is none or can't be written to.
        ValueError: naming the folder, when another run is writing to it; or the lock file, when it
            is of someone else.
    """
    made: list[Path] = []
    try:
        handle = None
        while handle is None:
            made += _make(folder)
            handle = _lock(folder)
        try:
            remove_parts(folder)
            yield
        finally:
            _unlock(handle, folder)
    finally:
        for one in made:
            try:
                one.rmdir()
            except OSError:  # it is not empty, which is as it should be
                break


def _make(folder: Path) -> list[Path]:
    """Make the folder and those above it; returns which were made, the innermost first."""
    missing = []
    for one in (folder, *folder.parents):
        if one.exists():
            break
        missing.append(one)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error) from error
    return missing


def _lock(folder: Path) -> int | None:
    """Make and lock the lock file; None where the run before removes it, or its folder, meanwhile.

    Also shows whether the folder can be written to at all.
    """
    path = folder / LOCK
    if not _is_lock(path):
        raise ValueError(
            f"{path}: expected an empty file, by which runs are kept apart, or none; move it away "
            "or choose another folder"
        )
    try:
        # A link of that name is not followed, where the system can tell.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(folder, error) from error
    try:
        _take(handle, folder)
        if _has_name(handle, path):
            return handle
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _is_lock(path: Path) -> bool:
    """Whether a run may have made what is there, if anything is."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return True
    return stat.S_ISREG(found.st_mode) and found.st_size == 0


def _unlock(handle: int, folder: Path) -> None:
    if os.name == "nt":  # which removes no open file
        os.close(handle)
        (folder / LOCK).unlink(missing_ok=True)
        return
    # While it is locked: the next run must not lock a file that has no name any more.
    (folder / LOCK).unlink(missing_ok=True)
    os.close(handle)


def _has_name(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _take(handle: int, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has none; there two runs are not kept apart
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"{folder}: another run is writing to this folder; wait for it or choose another one"
        ) from None
    except OSError as error:
        # Some file systems of networks know no locks; runs go on there as they would on Windows.
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise _unusable(folder, error) from error


def _unusable(folder: Path, error: OSError) -> OSError:
    found = "it is a file" if folder.exists() and not folder.is_dir() else error.strerror
    what = f"expected a folder that can be written to, but {found}"
    return OSError(error.errno, what, str(folder))
