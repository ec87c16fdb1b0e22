"""The manifest of a network: JSON that says how it was made, so that nothing need be retyped."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from awm_defense.files.atomic import write_json

NAME = "manifest.json"


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `folder`/manifest.json, at once: a kill leaves the old file or the new one."""
    write_json(folder / NAME, content)


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not a JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got a {type(content).__name__}")
    return content
