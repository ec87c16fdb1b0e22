"""What lies below a folder, and nowhere else."""

import os
from collections.abc import Iterable
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


def check_inside(root: Path, paths: Iterable[Path]) -> None:
    """Raise ValueError where a link leads a path to a file into a folder outside of `root`."""
    home = root.resolve()
    for folder in {path.parent for path in paths}:
        if not folder.resolve().is_relative_to(home):
            raise _link(folder)


def _link(folder: Path) -> ValueError:
    return ValueError(
        f"{shown(folder, PATH)}: expected a folder, got a link to one; links to folders are not "
        "followed: put the folder in its place"
    )
