"""Files that are there whole or not at all, after a kill and on a full disk, too."""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PART = ".awm-{}.part"
"""The name of a file while it is written; a kill leaves it behind."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file at once and durably: a kill leaves the old one or the new one.

    A link under that name is replaced, not followed.

    Raises:
        OSError: naming the file, when it can't be written; what was there before is left.
    """
    part = write_part(path, data)
    try:
        put_in_place(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of a text, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """`write_bytes` of a JSON object."""
    write_bytes(path, as_json(content))


def as_json(content: Mapping[str, Any]) -> bytes:
    """The content of the file that `write_json` writes."""
    return (json.dumps(content, indent=2) + "\n").encode("utf-8")


def write_part(path: Path, data: bytes) -> Path:
    """Write a file under another name beside `path`, to the disk; returns that name.

    Raises:
        OSError: naming `path`; nothing is left then.
    """
    part = path.with_name(PART.format(secrets.token_hex(8)))
    try:
        # "x" opens no file that is there, nor what a link of that name leads to.
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(error.errno, f"can't be written: {error.strerror}", str(path)) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return part


def put_in_place(part: Path, path: Path) -> None:
    """Give what `write_part` wrote its name.

    Raises:
        OSError: naming `path`.
    """
    try:
        os.replace(part, path)
    except OSError as error:
        raise OSError(error.errno, f"can't be written: {error.strerror}", str(path)) from error


def sync(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can."""
    if os.name == "nt":  # Windows opens no folders
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError:
        # Some file systems of networks can't; the files themselves are on the disk.
        pass
    finally:
        os.close(handle)


def remove_parts(folder: Path) -> None:
    """Remove what kills have left of files half written; no one may be writing to the folder."""
    for part in folder.glob(PART.format("[0-9a-f]" * 16)):
        part.unlink(missing_ok=True)
