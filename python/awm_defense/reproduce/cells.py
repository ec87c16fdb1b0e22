"""One cell of the grid: a network, the images that the defender has, a method, and a seed."""

import functools
import hashlib
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import awm_kernels
from awm_defense.attacks.stored import read_attack
from awm_defense.data import DATASETS, Dataset, load_dataset
from awm_defense.files import schema
from awm_defense.files.atomic import as_json
from awm_defense.files.checkpoint import checksum, load_into, load_state_dict
from awm_defense.files.manifest import NAME, check, read_manifest
from awm_defense.models import build_model
from awm_defense.reproduce.methods import get_method
from awm_defense.reproduce.studies import STUDIES, Trial
from awm_defense.training.backdoor import MODEL

# What a manifest says that a result depends on, besides the files of the trigger.
ATTACK = ("dataset", "num_classes", "attack", "mapping", "target", "trigger")
TRIGGER = ("image", "mask", "field")


@dataclass(frozen=True)
class Cell:
    """What is measured.

    Attributes:
        arch, attack: the folder of the network is ARCH/ATTACK.
        n: images that the defender has; None for one of each class, 0 for a network as it is.
        method: a key of `METHODS`, with settings where there are: "awm+tau=100".
        seed: of the draw of images and of the method.
        limit: how many test images are measured; None for all.
    """

    arch: str
    attack: str
    n: int | None
    method: str
    seed: int = 0
    limit: int | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """Network, attack, number of images, method and seed, as the cell's name has them."""
        size = "one-shot" if self.n is None else f"n{self.n}"
        return self.arch, self.attack, size, self.method, f"seed{self.seed}"

    @property
    def name(self) -> str:
        """Of its file. No two cells have the same."""
        limit = () if self.limit is None else (f"first{self.limit}",)
        return "-".join(self.parts + limit)


@dataclass(frozen=True)
class Place:
    """Where and how cells are measured.

    Attributes:
        models, data_dir: folders of networks and of data.
        device: to work on.
        precision: as `purify` takes it.
    """

    models: Path
    data_dir: Path | None
    device: str
    precision: str = "auto"

    def folder(self, cell: Cell) -> Path:
        """The folder of a cell's network."""
        return self.models / cell.arch / cell.attack

    def checksum(self, cell: Cell) -> str | None:
        """SHA-256 of a cell's network; None where there is no finished one."""
        folder = self.folder(cell)
        if not ((folder / MODEL).is_file() and (folder / NAME).is_file()):
            return None
        return checksum(folder / MODEL)

    def attack_checksum(self, cell: Cell) -> str:
        """SHA-256 of what a cell's manifest says of data and attack, and of the trigger's files.

        Raises:
            ValueError: naming the manifest, where it is none.
        """
        folder = self.folder(cell)
        manifest = read_manifest(folder / NAME)
        said = {name: manifest.get(name) for name in ATTACK}
        digest = hashlib.sha256(as_json(said))
        trigger = said["trigger"] if isinstance(said["trigger"], dict) else {}
        for name in (Path(str(trigger[key])).name for key in TRIGGER if key in trigger):
            if (folder / name).is_file():
                digest.update(checksum(folder / name).encode())
        return digest.hexdigest()


def run_cell(cell: Cell, place: Place) -> dict[str, Any]:
    """Measure a cell.

    Returns:
        What its file holds: the fields of the cell, what its study found (metrics in percent,
        seconds, recipe, ...), and on which network, device and versions.

    Raises:
        KeyboardInterrupt: also when the method ended early because of one.
    """
    folder = place.folder(cell)
    manifest = read_manifest(folder / NAME)
    # Before the measurement, in which the files may change.
    sums = {
        "model_sha256": place.checksum(cell),
        "attack_sha256": place.attack_checksum(cell),
    }
    check(manifest.path, schema.record({"dataset": schema.text(*DATASETS)}), manifest)
    model = build_model(cell.arch, manifest["num_classes"])
    load_into(model, load_state_dict(folder / MODEL))
    device = torch.device(place.device)
    data = _load(manifest["dataset"], place.data_dir)
    method, recipe = get_method(cell.method, flip=data.flip)
    trial = Trial(
        model=model.eval().to(device),
        attack=read_attack(folder, manifest) if "trigger" in manifest else None,
        data=data,
        recipe=recipe,
        n=cell.n,
        seed=cell.seed,
        limit=cell.limit,
        device=device,
        precision=place.precision,
    )
    found = STUDIES[method.study](trial)
    return {
        **asdict(cell),
        **found,
        "recipe": recipe and {key: _plain(value) for key, value in found["recipe"].items()},
        "dataset": manifest["dataset"],
        **sums,
        "device": _device_name(device),
        "versions": {"awm": awm_kernels.__version__, "torch": torch.__version__},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def changed_settings(cell: Cell, found: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """In which settings a cell's method is not what its result was measured with: then and now.

    Settings that are left to the method (None) are not compared.
    """
    then = found["recipe"] or {}
    # Whether images are mirrored is also up to the data set.
    _, recipe = get_method(cell.method, flip=then.get("flip", True))
    if recipe is None or not then:
        return {}
    # A result may be older than a setting, which then did not act.
    defaults = {field.name: field.default for field in fields(recipe)}
    pairs = {
        key: (then.get(key, defaults[key]), _plain(now))
        for key, now in asdict(recipe).items()
        if now is not None
    }
    return {key: (old, now) for key, (old, now) in pairs.items() if old != now}


@functools.lru_cache(maxsize=1)
def _load(dataset: str, data_dir: Path | None) -> Dataset:
    return load_dataset(dataset, data_dir)


def _plain(value: Any) -> Any:
    """As JSON holds it, which knows no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capability = torch.backends.cpu.get_cpu_capability()
    return f"CPU, {platform.machine()} {capability}, {torch.get_num_threads()} threads"
