"""Pictures are the same whatever settings of matplotlib lie about, and a result needs none."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest

from awm_defense.report.pictures import draw_history
from awm_defense.report.write import write_report
from tests.defense.test_report import make_result

HISTORY = [{"epoch": 0, "clean_loss": 1.0}]
DRAW = f"""
import hashlib, os
from awm_defense.report.pictures import draw_history
here = os.getcwd()
print(hashlib.sha256(draw_history({HISTORY})).hexdigest())
assert os.getcwd() == here
"""


def settings(text: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(text)


def expected() -> str:
    return hashlib.sha256(draw_history(HISTORY)).hexdigest()


@pytest.mark.parametrize(
    ("make", "backend"),
    [
        (settings(b"text.usetex: True\nlines.linewidth: 9\n"), ""),
        (settings(b"\xff\xfe\x00"), ""),
        (settings(b"bad\x1b[31m: 1\n"), ""),
        (os.mkfifo, ""),
        (settings(b""), "garbage"),
    ],
)
def test_settings_in_the_current_folder_change_nothing(
    make: Callable[[Path], object], backend: str, tmp_path: Path
) -> None:
    make(tmp_path / "matplotlibrc")
    started = tmp_path / "started"
    program = tmp_path / "bin" / "latex"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nmkdir '{started}'\n")
    program.chmod(0o755)
    found = subprocess.run(
        [sys.executable, "-P", "-c", DRAW],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": backend, "PATH": f"{program.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (found.stdout, found.stderr) == (f"{expected()}\n", "")
    assert not started.exists()


def test_settings_of_the_caller_are_neither_used_nor_changed() -> None:
    plain = expected()
    with matplotlib.rc_context({"lines.linewidth": 9, "text.usetex": True, "figure.dpi": 30}):
        assert expected() == plain
        assert matplotlib.rcParams["lines.linewidth"] == 9


def test_a_report_whose_pictures_can_t_be_drawn_has_all_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("no fonts\x1b[2J")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    result = make_result()
    write_report(tmp_path, result=result, title="t", weights={"model": b"new"})
    report = json.loads((tmp_path / "report.json").read_text())
    notes = [f"{name}.png can't be drawn: no fonts\\x1b[2J" for name in ("masks", "history")]
    assert result.notes[-2:] == report["notes"][-2:] == notes
    held = {path.name for path in tmp_path.iterdir()}
    assert held == {"model", "report.json", "report.html", "trigger.png"} == set(report["files"])
    assert "no fonts" in (tmp_path / "report.html").read_text()
