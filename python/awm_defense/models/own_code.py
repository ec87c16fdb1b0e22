"""A network that the user's own code makes. That code is executed."""

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from awm_defense.files.text import shown

FORM = "package.module:factory or path/to/file.py:factory"


def build_own(where: str, num_classes: int | None = None) -> nn.Module:
    """What a factory returns; it is given `num_classes` if it has an argument of that name.

    Raises:
        ValueError: there is no such factory, it fails, or what it returns is no module.
    """
    factory = _find(where)
    options: dict[str, Any] = {}
    try:
        asked = inspect.signature(factory).parameters.get("num_classes")
        if asked is not None and num_classes is not None:
            options["num_classes"] = num_classes
        elif asked is not None and asked.default is asked.empty:
            raise TypeError("it asks for num_classes, so give --num-classes")
        model = factory(**options)
    except Exception as error:
        raise _failed(where, error) from error
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"--model: expected {shown(where)} to return a torch.nn.Module, "
            f"got {type(model).__name__}"
        )
    return model


def _find(where: str) -> Callable[..., Any]:
    place, colon, name = where.rpartition(":")
    if not (colon and place and name):
        raise ValueError(f"--model: expected {FORM}, got {shown(where)!r}")
    if place.endswith(".py") and not Path(place).is_file():
        raise ValueError(f"--model: {shown(place)}: no such file")
    try:
        module = _import(place)
    except Exception as error:
        raise _failed(where, error) from error
    factory = getattr(module, name, None)
    if not callable(factory):
        raise ValueError(f"--model: expected a function or class {shown(name)} in {shown(place)}")
    return factory


@functools.cache
def _import(place: str) -> ModuleType:
    """A module by its name, seen from the working directory, or by its file."""
    if not place.endswith(".py"):
        sys.path.insert(0, "")
        return importlib.import_module(place)
    path = Path(place).resolve()
    # What stands beside it can be imported, as from a program.
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses, for one, look their module up there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _failed(where: str, error: Exception) -> ValueError:
    return ValueError(f"--model: {shown(where)} failed: {type(error).__name__}: {shown(error)}")
