"""A hostile file, the reader that gets it, and what became of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from awm_defense.attacks.stored import read_attack, read_trigger_mask
from awm_defense.data import load_dataset
from awm_defense.files.arrays import read_array, read_image
from awm_defense.files.backdoorbench import read_record
from awm_defense.files.checkpoint import load_into, load_saved, load_state_dict
from awm_defense.files.manifest import read_manifest
from awm_defense.files.together import check_replaceable
from awm_defense.inputs.folder import open_source, open_triggered
from awm_defense.inputs.preparation import Preparation
from awm_defense.models.named import build_named, prepare_named
from awm_defense.reproduce.cells import Cell
from awm_defense.reproduce.grid import cell_path, read_results

# What each file may take: seconds of computing, and bytes of memory beyond its own size.
SECONDS = 10.0
MEMORY = 1 << 30
# On the clock; after these a reader is taken to hang. A busy machine takes a multiple.
HANGS = 90
CELL = Cell("small_vgg", "badnets", 10, "awm")
CURVE, SHARES = (replace(CELL, method=f"anp_{study}") for study in ("thresholds", "perturbed"))

Make = Callable[[Path], Any]


@dataclass(frozen=True)
class Case:
    """A file that `make` writes at a path; what it makes happen stands at `harm(path)`.

    Attributes:
        name: for the reports.
        reader: a key of `READERS`.
        says: part of the sentence that refuses it; None where it may also be read.
        lies: where the file lies below the folder of the case.
    """

    name: str
    reader: str
    make: Make
    says: str | None
    lies: str


@dataclass(frozen=True)
class Outcome:
    """What became of a file.

    Attributes:
        message: of the refusal; None where it was read.
        named: whether that names the file.
        traceback: the type of an error that is no refusal.
        executed: whether it made something happen.
        seconds: computed by the reader, its processes included.
        memory: bytes that this process held at most, beyond what it held before; of what the
            file's own process takes there is a limit.
    """

    message: str | None
    named: bool
    traceback: str | None
    executed: bool
    seconds: float
    memory: int

    @property
    def hung(self) -> bool:
        """Whether it took longer than it may."""
        return self.seconds > SECONDS


def network() -> nn.Module:
    """A small network that some of the files are weights of; the same each time."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 10))


def harm(path: Path) -> Path:
    """What a file makes happen where it is not read with care."""
    return path.with_name("harm")


def _attack(path: Path) -> Any:
    return read_attack(path.parent, read_manifest(path))


def _cell(path: Path) -> Any:
    return read_results(path.parents[1], [CELL, CURVE, SHARES])


def _folder(path: Path) -> Any:
    root = next(parent for parent in path.parents if parent.name == "photos")
    source = open_source(root, Preparation(size=(16, 16)))
    return source.read(torch.arange(len(source.labels)))


def _photos(path: Path) -> Any:
    source = open_source(path.parents[1], Preparation())
    return source.read(torch.arange(len(source.labels)))


def _triggered(path: Path) -> Any:
    root = next(parent for parent in path.parents if parent.name == "bd_test_dataset")
    return open_triggered(root, (3, 16, 16))


def _report(path: Path) -> Any:
    name = PLACES["report"]
    check_replaceable(path.parent, [name], sign=name, entries=["title"])


READERS: dict[str, Callable[[Path], Any]] = {
    "checkpoint": load_state_dict,
    "network": lambda path: load_into(network(), load_state_dict(path)),
    "training": load_saved,
    "record": read_record,
    "array": read_array,
    "mask": read_trigger_mask,
    "image": read_image,
    "arrays": lambda path: open_source(path, Preparation()),
    "folder": _folder,
    "photos": _photos,
    "table": _folder,
    "triggered": _triggered,
    "config": lambda path: build_named(f"hf:{path.parent}"),
    "processor": lambda path: prepare_named(f"hf:{path.parent}"),
    "manifest": read_manifest,
    "attack": _attack,
    "cell": _cell,
    "report": _report,
    "cifar10": lambda path: load_dataset("cifar10", path.parents[1]),
    "gtsrb": lambda path: load_dataset("gtsrb", next(p for p in path.parents if is_root(p))),
}
PLACES = {
    "checkpoint": "net.pth",
    "network": "net.pth",
    "training": "training.pt",
    "record": "record/badnet/attack_result.pt",
    "array": "field.npy",
    "mask": "mask.npy",
    "image": "trigger.png",
    "arrays": "images.npz",
    "folder": "photos/cat/one.png",
    "photos": "photos/cat/one.png",
    "table": "photos/labels.csv",
    "triggered": "bd_test_dataset/3/7.png",
    "config": "vit/config.json",
    "processor": "vit/preprocessor_config.json",
    "manifest": "manifest.json",
    "attack": "manifest.json",
    "report": "report.json",
    "cell": str(cell_path(Path(), CELL)),
    "cifar10": "cifar-10-batches-py/data_batch_1",
    "gtsrb": "GTSRB/Final_Training/Images/00000/GT-00000.csv",
}


def is_root(path: Path) -> bool:
    """Whether GTSRB lies in a folder."""
    return (path / "GTSRB").is_dir()


def case(name: str, reader: str, make: Make, says: str | None, lies: str | None = None) -> Case:
    """A case whose file lies where its reader looks for it."""
    return Case(f"{reader}: {name}", reader, make, says, lies or PLACES[reader])


def written(content: bytes | Callable[[], bytes]) -> Make:
    """Writes the bytes, made when their turn comes."""
    return lambda path: path.write_bytes(content() if callable(content) else content)


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Ends what hangs."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def highest_memory() -> int:
    """The most memory that this process has held since `forget_memory`, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def computed() -> float:
    """Seconds that this process and those that it has seen end have computed."""
    return sum(os.times()[:4])


def forget_memory() -> int:
    """Start to count anew; returns what is held now."""
    Path("/proc/self/clear_refs").write_text("5")
    return highest_memory()


@contextmanager
def trap(folder: Path, mark: Path) -> Iterator[None]:
    """Ghostscript on the path, which Pillow starts for EPS: one that leaves a mark."""
    folder.mkdir()
    program = folder / "gs"
    program.write_text(f"#!/bin/sh\nmkdir '{mark}'\n")
    program.chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}{os.pathsep}{before}"
    try:
        yield
    finally:
        os.environ["PATH"] = before


def run_case(case: Case, folder: Path) -> Outcome:
    """Write the file and read it."""
    path = folder / case.lies
    path.parent.mkdir(parents=True, exist_ok=True)
    case.make(path)
    message, traceback = None, None
    held = forget_memory()
    started = computed()
    try:
        with alarm(HANGS), trap(folder / "bin", harm(path)):
            READERS[case.reader](path)
    except (ValueError, FileNotFoundError, PermissionError, OSError) as error:
        message = str(error)
    except Exception as error:
        traceback = type(error).__name__
    seconds = computed() - started
    size = path.stat().st_size if path.is_file() else 0
    return Outcome(
        message,
        message is not None and (path.name in message or str(folder) in message),
        traceback,
        harm(path).exists(),
        seconds,
        max(0, highest_memory() - held - size),
    )
