"""Commands open no socket, and write nothing outside `--out` but what is named here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import awm_defense
from awm_defense.attacks import make_attack
from awm_defense.attacks.stored import write_attack
from awm_defense.files.checkpoint import save_model
from awm_defense.files.manifest import write_manifest
from tests.defense.conftest import tiny_network

HERE = Path(__file__).parent
NETWORK = ["--arch", "tiny", "--num-classes", "10"]
DIGITS = ["--dataset", "digits"]
QUICK = ["--recipe", "official", "--set", "epochs=1", "--set", "inner_epochs=1"]
TRAIN = ["--arch", "tiny", *DIGITS, "--attack", "badnets", "--target", "8", "--epochs", "1"]
TABLE = ["--arch", "tiny", "--cells", "badnets,none|clp", "--limit", "20"]
# matplotlib asks it which fonts there are; the processes that read strangers' files, and workers.
PROGRAMS = {"fc-list", sys.executable}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux"),
]


@dataclass(frozen=True)
class Seen:
    """What a command did, as the hook has it, and the folders that it was given."""

    out: Path
    temporary: Path
    events: list[list[str]]

    def paths(self) -> set[Path]:
        """Of what was written, made, renamed or removed."""
        left = {Path(one) for event, *paths in self.events if _of_files(event) for one in paths}
        return left - {Path(os.devnull)}

    def programs(self) -> set[str]:
        return {words[0] for event, *words in self.events if event == "subprocess.Popen"}

    def others(self) -> list[list[str]]:
        """Sockets, and programs started another way."""
        return [
            event
            for event in self.events
            if not _of_files(event[0]) and event[0] != "subprocess.Popen"
        ]


def _of_files(event: str) -> bool:
    return event == "open" or event in (
        *("os.remove", "os.rmdir", "os.chown", "os.mkdir", "os.chmod"),
        *("os.rename", "os.link", "os.symlink", "os.truncate"),
    )


def watch(folder: Path, *words: object) -> Seen:
    """Run a program of Python's under the hook; its home and folder must stay as they were."""
    places = {name: folder / name for name in ("home", "here", "temporary")}
    for place in places.values():
        place.mkdir()
    log = folder / "log"
    environment = {
        **os.environ,
        "HOME": str(places["home"]),
        "TMPDIR": str(places["temporary"]),
        "WATCHED_LOG": str(log),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(
            map(str, (HERE, HERE.parents[1], Path(awm_defense.__file__).parents[1]))
        ),
    }
    # They name folders; PyTorch sets its own for the process that imported its compiler.
    for name in [one for one in environment if one.startswith(("XDG_", "MPL", "TORCHINDUCTOR_"))]:
        del environment[name]
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=places["here"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert not [*places["home"].iterdir(), *places["here"].iterdir()]
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return Seen(folder / "out", places["temporary"], events)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the folder of a network, which is there as a pickle, too: a child reads that."""
    models = tmp_path_factory.mktemp("models")
    folder = models / "tiny" / "badnets"
    folder.mkdir(parents=True)
    torch.save(tiny_network().state_dict(), folder / "model.pth")
    save_model(folder / "model.safetensors", tiny_network())
    attack = write_attack(folder, make_attack("badnets", 8, num_classes=10))
    write_manifest(folder, {"arch": "tiny", "dataset": "digits", "num_classes": 10, **attack})
    return models


COMMANDS = {
    "demo": ["demo", "--out", "OUT"],
    "train": ["train", *TRAIN, "--images", "64", "--out", "OUT"],
    "purify": ["purify", "MODEL", *NETWORK, *DIGITS, *QUICK, "--out", "OUT"],
    "synthesize": ["purify", "MODEL", *NETWORK, "--per-class", "0", *QUICK, "--out", "OUT"],
    "evaluate": ["evaluate", "MODEL", "--limit", "20", "--retune", "20"],
    "examine": ["examine", "MODEL", *NETWORK, *DIGITS],
    "table": ["reproduce", "table2", *TABLE, "--models", "MODELS", "--out", "OUT"],
    "workers": ["reproduce", "table2", *TABLE, "--workers=2", "--models", "MODELS", "--out", "OUT"],
    "info": ["info"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_it_stays_in_its_folder(name: str, models: Path, tmp_path: Path) -> None:
    given = {
        "OUT": tmp_path / "out",
        "MODELS": models,
        "MODEL": models / "tiny" / "badnets" / "model.pth",
    }
    words = [given.get(word, word) for word in COMMANDS[name]]
    seen = watch(tmp_path, "-m", "tests.watched.awm", *words)
    outside = {path for path in seen.paths() if not path.is_relative_to(seen.out)}
    assert {path for path in outside if not path.is_relative_to(seen.temporary)} == set()
    assert seen.programs() <= PROGRAMS
    assert seen.others() == []
    # PyTorch makes this folder, for code that it would compile.
    assert all(path.name.startswith("torchinductor_") for path in seen.temporary.rglob("*"))
    assert ("OUT" in COMMANDS[name]) == any(seen.out.rglob("*"))


def test_the_hook_sees_what_a_process_and_its_child_do(tmp_path: Path) -> None:
    child = "import socket; socket.socket().close()"
    code = f"""
import os, subprocess, sys, shutil
os.mkdir({str(tmp_path / "made")!r})
open({str(tmp_path / "made" / "file")!r}, "w").close()
shutil.rmtree({str(tmp_path / "made")!r})
subprocess.run([sys.executable, "-c", {child!r}], check=True)
"""
    seen = watch(tmp_path, "-c", code)
    assert seen.paths() == {tmp_path / "made", tmp_path / "made" / "file"}
    assert seen.programs() == {sys.executable}
    assert [event for event, *_ in seen.others()] == ["socket.__new__"]
