"""An untrained network to run cells on."""

from __future__ import annotations

from pathlib import Path

import torch

from awm_defense.attacks import make_attack
from awm_defense.attacks.stored import write_attack
from awm_defense.files.checkpoint import save_model
from awm_defense.files.manifest import write_manifest
from awm_defense.models import build_model
from awm_defense.reproduce.cells import Cell

QUICK = "awm+epochs=1+inner_epochs=1"
CELL = Cell("small_vgg", "badnets", None, QUICK, limit=20)


def write_network(folder: Path, seed: int = 0) -> None:
    """Untrained: the grid is tested here, not the defense."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    save_model(folder / "model.safetensors", build_model("small_vgg", 10))
    attack = write_attack(folder, make_attack("badnets", 8, num_classes=10))
    write_manifest(folder, {"arch": "small_vgg", "dataset": "digits", "num_classes": 10, **attack})


def state(out: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of every finished cell."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in (out / "cells").glob("*.json")
    }
