"""The backdoored networks that `--networks` names."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from awm_defense.data import DATA_DIR_VARIABLE
from awm_defense.manifest import NAME, read_manifest


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
