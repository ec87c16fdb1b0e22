"""The manifest of a network: JSON that says how it was made, so that nothing need be retyped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from awm_defense.files import schema
from awm_defense.files.atomic import write_json
from awm_defense.files.json_file import read_json
from awm_defense.files.text import PATH, sentence, shown

NAME = "manifest.json"
MOST_CLASSES = 100_000
PERCENT = schema.number(0, 100)
# What is read from a manifest; the attack's own entries are checked where they are read.
CONTENT = schema.record(
    {
        "arch": schema.text(),
        "dataset": schema.text(),
        "num_classes": schema.whole(2, MOST_CLASSES),
        "attack": schema.text(),
        "target": schema.optional(schema.whole(0, MOST_CLASSES - 1)),
        "poison_rate": schema.number(0, 1),
        "seed": schema.whole(-(1 << 64), 1 << 64),
        "plan": schema.mapping(schema.scalar),
        "images": schema.optional(schema.whole(1, 1 << 40)),
        "compute": schema.record(
            {"bf16": schema.truth, "channels_last": schema.truth}, closed=True
        ),
        "init_sha256": schema.optional(schema.text()),
        "acc": PERCENT,
        "asr": PERCENT,
    }
)


class Manifest(dict[str, Any]):
    """What a manifest says. An entry that it lacks is an error of the file."""

    def __init__(self, content: Mapping[str, Any], path: Path) -> None:
        super().__init__(content)
        self.path = path

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"{shown(self.path, PATH)}: lacks {name!r}")


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `folder`/manifest.json, at once: a kill leaves the old file or the new one."""
    write_json(folder / NAME, content)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not a JSON object, or an entry is not what it should be; also when
            an entry is asked for that it lacks.
    """
    content = Manifest(read_json(path), path)
    check(path, CONTENT, content)
    return content


def check(path: Path, allowed: schema.Check, content: Any) -> None:
    """Check what a file holds; ValueError names the file and the entry."""
    try:
        allowed("", content)
    except ValueError as error:
        raise ValueError(f"{shown(path, PATH)}: {sentence(error)}") from error
