"""What a command may write to, found before the work."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from awm_defense.commands.options import say
from awm_defense.files.manifest import NAME
from awm_defense.files.together import check_replaceable
from awm_defense.report.write import ENTRIES, REPORT

WEIGHTS = ("model.safetensors", "masks.safetensors")
"""Of a purified network."""


def check_inputs(inputs: Iterable[Path], folder: Path, names: Iterable[str]) -> None:
    """Raise ValueError where a file that is read is one that will be written.

    Args:
        inputs: files that are read.
        folder: that is written to.
        names: of all files that may be written or removed there.
    """
    given = list(inputs)
    for path in (folder / name for name in names):
        for one in given:
            if _same(one, path):
                raise ValueError(f"--out: {path} is the input {one}, which would be overwritten")


def check_report_folder(folder: Path, names: Sequence[str]) -> None:
    """Raise ValueError or OSError where a report and its files can't or must not be written.

    Args:
        folder: that is written to; an earlier report in it may be replaced.
        names: of all files that may be written or removed there.
    """
    if (folder / NAME).exists():
        raise ValueError(f"--out: {folder} holds a network that would be overwritten")
    check_replaceable(folder, names, sign=REPORT, entries=ENTRIES)


def say_where(asked: Path, written: Path) -> None:
    """Say that a result is not where it was asked for, if so."""
    if written != asked:
        say(f"note: what came into {asked} meanwhile is kept; the result is in {written}")


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path, which need not be there, is a folder or lies in it."""
    return path.resolve().is_relative_to(folder.resolve())


def _same(one: Path, other: Path) -> bool:
    """Whether both are one file, by whatever names and links."""
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them is missing
        return False
