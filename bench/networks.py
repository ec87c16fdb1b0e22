"""The backdoored networks that `--networks` names."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

import torch

from awm_defense.attacks.stored import read_attack
from awm_defense.data import DATA_DIR_VARIABLE, load_dataset
from awm_defense.files.checkpoint import load_into, load_state_dict
from awm_defense.files.manifest import NAME, read_manifest
from awm_defense.models import build_model
from awm_defense.reproduce.studies import Trial
from awm_defense.training.backdoor import MODEL
from bench.common import DEVICE


def find_networks(folder: Path) -> list[Path]:
    """The folders in `folder` that hold a network and its trigger (train_all.sh, adopt.py).

    Says on standard error which hold no trigger: there is nothing to erase, and they are left out.

    Raises:
        ValueError: where there is none, or no folder of data is set.
    """
    manifests = sorted(folder.glob(f"*/{NAME}"))
    found = [path.parent for path in manifests if "trigger" in read_manifest(path)]
    for path in manifests:
        if path.parent not in found:
            print(f"left out, for its {NAME} has no trigger: {path.parent}", file=sys.stderr)
    if not found:
        raise ValueError(f"--networks: expected a folder NAME/{NAME} with a trigger in {folder}")
    if not os.environ.get(DATA_DIR_VARIABLE):
        raise ValueError(
            f"--networks: expected their data in the folder {DATA_DIR_VARIABLE}, which is not set"
        )
    return found


@functools.cache
def trial(folder: Path) -> Trial:
    """The network in a folder, its trigger and its data, with one image a class."""
    manifest = read_manifest(folder / NAME)
    model = build_model(manifest["arch"], manifest["num_classes"])
    load_into(model, load_state_dict(folder / MODEL))
    return Trial(
        model=model.eval().to(DEVICE),
        attack=read_attack(folder, manifest),
        data=load_dataset(manifest["dataset"], None),
        recipe=None,
        n=None,
        seed=0,
        limit=None,
        device=torch.device(DEVICE),
    )
