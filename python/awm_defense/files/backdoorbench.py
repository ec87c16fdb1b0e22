"""BackdoorBench's `attack_result.pt` and `defense_result.pt`: what they say besides the weights."""

import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from awm_defense.files import schema
from awm_defense.files.checkpoint import LIMIT, describe_saved
from awm_defense.files.manifest import MOST_CLASSES, check

ATTACK, DEFENSE = "attack_result.pt", "defense_result.pt"
TRIGGERED = "bd_test_dataset"
"""The folder of triggered test images: `<original label>/<index>.png`."""
MOST_SIDE = 4096
NEEDED = ("model_name", "num_classes", "model")
CONTENT = schema.record(
    {
        "model_name": schema.text(),
        "num_classes": schema.whole(2, MOST_CLASSES),
        "clean_data": schema.text(),
        "data_path": schema.text(),
        "img_size": schema.listing(schema.whole(1, MOST_SIDE), least=2),
    },
    required=NEEDED,
)


@dataclass(frozen=True)
class Record:
    """What a file says of its network, and of the data it was trained on.

    Attributes:
        path: of the file.
        folder: `record/NAME`, which holds `attack_result.pt`.
        model_name: what BackdoorBench calls the architecture.
        num_classes: how many classes the network knows.
        clean_data: the name of the data set; None where neither file says it.
        data_path: where it lay for whoever trained the network.
        size: (h, w) of its images.
        targets: the class that triggered test images of a class are sent to.
    """

    path: Path
    folder: Path
    model_name: str
    num_classes: int
    clean_data: str | None
    data_path: str | None
    size: tuple[int, int] | None
    targets: dict[int, int]


def read_record(path: Path, *, limit: int = LIMIT) -> Record | None:
    """What a file of BackdoorBench says; None where it is no such file.

    A `defense_result.pt` says nothing of the data: the `attack_result.pt` that it belongs to does,
    two folders above.

    Args:
        path: of the file.
        limit: bytes that a file may have.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when one can't be read safely, or an entry is not what it should be.
    """
    said = _read(path, limit)
    if said is None:
        return None
    folder = path.parent
    of_data: Mapping[str, Any] = said
    attack = path.parent.parent.parent / ATTACK
    if "clean_data" not in said and attack.is_file():
        folder, of_data = attack.parent, _read(attack, limit) or {}
    size = of_data.get("img_size")
    return Record(
        path,
        folder,
        said["model_name"],
        said["num_classes"],
        of_data.get("clean_data"),
        of_data.get("data_path"),
        (size[0], size[1]) if size else None,
        _targets(of_data, said["num_classes"]),
    )


def defense_result(record: Record, model: nn.Module) -> bytes:
    """The content of a `defense_result.pt` with this network, as BackdoorBench reads it."""
    state = {
        name: value.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
    content = io.BytesIO()
    said = {"model_name": record.model_name, "num_classes": record.num_classes, "model": state}
    torch.save(said, content)
    return content.getvalue()


def _read(path: Path, limit: int) -> dict[str, Any] | None:
    content = describe_saved(path, limit=limit)
    if not isinstance(content, dict) or not all(name in content for name in NEEDED):
        return None
    size = content.get("img_size")
    said = {**content, "img_size": list(size)} if isinstance(size, tuple) else content
    check(path, CONTENT, said)
    return said


def _targets(content: Mapping[str, Any], classes: int) -> dict[int, int]:
    """For each class of triggered test images the label that most of them were given."""
    votes: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for given, original in _labels(content):
        if all(type(label) is int and 0 <= label < classes for label in (given, original)):
            votes[original][given] += 1
    return {original: found.most_common(1)[0][0] for original, found in votes.items()}


def _labels(content: Any) -> Iterator[tuple[Any, Any]]:
    """(label, original label) of each triggered test image."""
    for name in ("bd_test", "bd_data_container", "data_dict"):
        content = content.get(name) if isinstance(content, Mapping) else None
    for entry in content.values() if isinstance(content, Mapping) else ():
        # On the disk the picture is a path, in memory it comes before them.
        labels = entry.get("other_info") if isinstance(entry, Mapping) else entry
        if isinstance(labels, list | tuple) and len(labels) >= 2:
            yield labels[-2], labels[-1]
