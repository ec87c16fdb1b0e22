"""What lies below a folder, and nowhere else."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from awm_defense.files.text import PATH, shown

MOST_FILES = 1_000_000


def walk(folder: Path) -> list[Path]:
    """All files and folders below a folder, sorted.

    Raises:
        ValueError: one is a link to a folder, which could lead anywhere, or there are more than
            `MOST_FILES`.
    """
    if folder.is_symlink():
        raise _link(folder)
    found: list[Path] = []
    folders = [folder]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                found.append(path)
                if len(found) > MOST_FILES:
                    raise ValueError(f"{shown(folder, PATH)}: expected at most {MOST_FILES} files")
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif entry.is_dir():
                    raise _link(path)
    return sorted(found)


def inside(root: Path, paths: Iterable[Path]) -> Iterator[Path]:
    """The paths to files, each looked at when its turn comes: a table may name a million folders.

    Raises:
        ValueError: a link leads one into a folder outside of `root`.
    """
    home, known = root.resolve(), set[Path]()
    for path in paths:
        folder = path.parent
        if folder not in known and not folder.resolve().is_relative_to(home):
            raise _link(folder)
        known.add(folder)
        yield path


def _link(folder: Path) -> ValueError:
    return ValueError(
        f"{shown(folder, PATH)}: expected a folder, got a link to one; links to folders are not "
        "followed: put the folder in its place"
    )
