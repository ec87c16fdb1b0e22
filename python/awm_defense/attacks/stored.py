"""Attacks as files: PNG and NPY, whose names stand in a manifest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from awm_defense.attacks import ATTACKS, Attack, ImageTrigger, WarpTrigger, make_attack
from awm_defense.attacks.image_trigger import MODES
from awm_defense.files import schema
from awm_defense.files.arrays import image_as_png, read_array, read_image
from awm_defense.files.atomic import write_bytes
from awm_defense.files.encoded import as_npy
from awm_defense.files.manifest import MOST_CLASSES, NAME, Manifest
from awm_defense.files.text import PATH, shown

ALL_TO_ALL = "all-to-all"
ENTRY = schema.record(
    {
        "attack": schema.text(*ATTACKS),
        "mapping": schema.text("all-to-one", ALL_TO_ALL),
        "target": schema.optional(schema.whole(0, MOST_CLASSES - 1)),
        "num_classes": schema.optional(schema.whole(2, MOST_CLASSES)),
        "trigger": schema.record(
            {
                "image": schema.text(),
                "mask": schema.text(),
                "field": schema.text(),
                "mode": schema.optional(schema.text(*MODES)),
                "opacity": schema.optional(schema.number(0, 1)),
            }
        ),
    },
    required=("attack", "target", "num_classes", "trigger"),
)
IMAGE, MASK, FIELD = "trigger.png", "trigger_mask.npy", "trigger_field.npy"


def read_trigger_mask(path: Path) -> Tensor:
    """An NPY file in [0,1] as float32 (3,H,W) or (1,H,W), of (H,W) the latter; see `read_array` for
    what is refused."""
    mask, name = read_array(path), shown(path, PATH)
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or mask.shape[0] not in (1, 3) or mask.numel() == 0:
        raise ValueError(f"{name}: expected an array (3,H,W) or (1,H,W), got {tuple(mask.shape)}")
    low, high = float(mask.min()), float(mask.max())
    if low < 0 or high > 1:
        raise ValueError(f"{name}: expected values in [0,1], got {low:g} to {high:g}")
    return mask


def read_trigger_field(path: Path) -> Tensor:
    """An NPY file as float32 (H,W,2), the field of a `WarpTrigger`."""
    field = read_array(path)
    try:
        WarpTrigger(field)
    except ValueError as error:
        raise ValueError(f"{shown(path, PATH)}: {error}") from error
    return field


def write_attack(folder: Path, attack: Attack) -> dict[str, Any]:
    """Write the files of an attack's trigger, and return what `read_attack` needs besides."""
    entry, files = describe_attack(attack)
    for name, data in files.items():
        write_bytes(folder / name, data)
    return entry


def describe_attack(attack: Attack) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What `read_attack` needs, and the files of the trigger by their names.

    For an attack that has no trigger file the PNG shows its trigger on black.
    """
    trigger = attack.trigger
    entry: dict[str, Any] = {
        "attack": attack.name,
        "mapping": attack.mapping,
        "target": attack.target,
        "num_classes": attack.num_classes,
        "trigger": {},
    }
    files = {}
    if isinstance(trigger, ImageTrigger):
        files[IMAGE] = image_as_png(trigger.image)
        entry["trigger"] = {"image": IMAGE, "mode": trigger.mode}
        if trigger.mode == "blend":
            entry["trigger"]["opacity"] = trigger.opacity
        if trigger.mode != "add":
            files[MASK] = as_npy(trigger.mask.cpu().numpy())
            entry["trigger"]["mask"] = MASK
    elif isinstance(trigger, WarpTrigger):
        files[FIELD] = as_npy(trigger.field.cpu().numpy())
        entry["trigger"] = {"field": FIELD}
    else:
        files[IMAGE] = image_as_png(attack.apply(torch.zeros(1, 3, 32, 32))[0])
    return entry, files


def read_attack(folder: Path, entry: Mapping[str, Any]) -> Attack:
    """The attack that `write_attack` described; its files are looked for in `folder` only.

    Raises:
        ValueError: when the entry lacks something or a file is not what it should be.
        FileNotFoundError: when a file is missing.
    """
    path = entry.path if isinstance(entry, Manifest) else folder / NAME
    where = f"{shown(path, PATH)}: expected an attack's entry"
    try:
        ENTRY("", entry)
        mapping = entry.get("mapping")
        if mapping is not None and (mapping == ALL_TO_ALL) != (entry["target"] is None):
            raise ValueError(f"target: {entry['target']} is none for {mapping}")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    trigger = entry["trigger"]
    paths = {
        key: folder / Path(trigger[key]).name
        for key in ("image", "mask", "field")
        if key in trigger
    }
    image = read_image(paths["image"]) if "image" in paths else None
    mask = read_trigger_mask(paths["mask"]) if "mask" in paths else None
    field = read_trigger_field(paths["field"]) if "field" in paths else None
    try:
        return make_attack(
            entry["attack"],
            entry["target"],
            num_classes=entry["num_classes"],
            trigger_image=image,
            trigger_mask=mask,
            trigger_field=field,
            mode=trigger.get("mode"),
            opacity=trigger.get("opacity"),
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
