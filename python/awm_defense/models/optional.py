"""Packages that need not be installed."""

import importlib
from typing import Any

from awm_defense.files.text import shown


def load_package(name: str) -> Any:
    """An optional package; ImportError says how to get it."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # one that does not fit the installed torch fails in other ways, too
        reason = "" if isinstance(error, ModuleNotFoundError) else f" ({shown(error)})"
        raise ImportError(f"{name} can't be imported{reason}: pip install {name}") from error
