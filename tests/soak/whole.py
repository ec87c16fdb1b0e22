"""Whether a folder holds what it may hold after a fault."""

from __future__ import annotations

import hashlib
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import load

# What is no result: the lock, and files half written under names of their own.
OURS = (".awm.lock", ".awm-")


def check_whole(folder: Path) -> None:
    """Every file that has its final name can be read to its end."""
    for path in folder.rglob("*"):
        if path.is_dir() or path.name.startswith(OURS):
            continue
        data = path.read_bytes()
        if path.suffix == ".safetensors":
            load(data)
        elif path.suffix == ".json":
            json.loads(data)
        elif path.suffix == ".png":
            with Image.open(BytesIO(data)) as picture:
                picture.load()
        elif path.suffix == ".npy":
            np.load(BytesIO(data), allow_pickle=False)
        elif path.suffix == ".html":
            assert data.rstrip().endswith(b"</html>"), path
        elif path.suffix == ".md":
            assert data.endswith(b"\n"), path
        else:
            # What `awm train` goes on from has the end of a ZIP archive.
            assert path.suffix == ".pt" and b"PK\x05\x06" in data[-64:], path


def report_of(folder: Path) -> dict[str, Any] | None:
    """The report, after checking that all files beside it are those of its run; None without."""
    path = folder / "report.json"
    if not path.exists():
        return None
    report: dict[str, Any] = json.loads(path.read_text("utf-8"))
    page = (folder / "report.html").read_text("utf-8")
    for name, digest in report["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
        assert digest in page, "the page is that of another run"
    masks = (folder / "masks.safetensors").exists()
    assert masks == ("masks.safetensors" in report["sha256"]), "masks of another run"
    return report


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
