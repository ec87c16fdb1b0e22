"""From which file an argument came: an error that names the argument alone names the file, too."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from awm_defense.files.text import PATH, shown

# What errors name, and where in the options of a command its file stands. `manifest` and
# `arch_from` are only set where the manifest says it, and not an option.
OPTIONS = {
    "--arch": ("arch_from",),
    "images": ("images",),
    "labels": ("images",),
    "triggered images": ("triggered_dir",),
    "trigger_image": ("trigger_image", "manifest"),
    "trigger_mask": ("trigger_mask", "manifest"),
    "trigger_field": ("trigger_field", "manifest"),
    "attack": ("trigger_image", "trigger_field", "manifest"),
}


@contextmanager
def named_by(args: argparse.Namespace) -> Iterator[None]:
    """Have errors name the files that the options of a command name."""
    try:
        yield
    except (TypeError, ValueError) as error:
        argument = str(error).partition(": ")[0]
        options = OPTIONS.get(argument, ())
        paths = [getattr(args, option, None) for option in options]
        path = next((path for path in paths if isinstance(path, Path)), None)
        if path is None:
            raise
        raise ValueError(f"{shown(path, PATH)}: {error}") from error
