"""Faults: signals, kills, full memory and wrong numbers end in one line and a whole result."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from awm_defense import models
from awm_defense.awm.engine import Engine
from awm_defense.awm.recipe import get_recipe
from awm_defense.commands import demo, info
from awm_defense.commands.errors import MEMORY, shorten
from awm_defense.commands.main import main
from awm_defense.files import atomic, together
from awm_defense.files.checkpoint import save_model
from awm_defense.files.folder import output_folder
from awm_defense.files.text import escape
from awm_defense.files.together import UNFINISHED, unfinished
from awm_defense.report import write as writing
from awm_defense.reproduce import workers
from awm_defense.reproduce.cells import Cell, Place
from awm_defense.reproduce.grid import read_results, run_grid
from awm_defense.training import backdoor
from awm_defense.training.loop import SEEDS_APART, Plan
from tests.defense.cells import CELL
from tests.defense.conftest import tiny_network
from tests.defense.test_grid import children, runs, start_grid, wait_for
from tests.soak.whole import report_of

ROOT = Path(__file__).parents[2]
MODEL = ["--arch", "tiny", "--num-classes", "10", "--dataset", "digits"]
QUICK = ["--recipe", "official", "--set", "epochs=2", "--set", "inner_epochs=1"]
TRAIN = ["train", "--arch", "tiny", "--dataset", "digits", "--attack", "badnets", "--target", "8"]


@pytest.fixture(autouse=True)
def tiny_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "tiny", lambda num_classes: tiny_network())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    save_model(path, tiny_network())
    return path


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def epoch(self: Engine, number: int) -> dict[str, float]:
        raise AssertionError("worked before everything was checked")

    monkeypatch.setattr(Engine, "epoch", epoch)


def line_of(capsys: pytest.CaptureFixture[str], code: int, *argv: object) -> str:
    """Run `awm`, which must fail with that code; returns its one line."""
    assert main([str(word) for word in argv]) == code
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert out == "" and "Traceback" not in err and last.startswith("awm: error: ")
    assert last.isprintable() and len(last) < 700
    return last


def purify(checkpoint: Path, out: Path, *more: object) -> int:
    argv = ["purify", checkpoint, *MODEL, *QUICK, "--out", out, *more]
    return main([str(word) for word in argv])


def signalled(number: int, epoch: int) -> Callable[[Engine, int], dict[str, float]]:
    """`Engine.epoch` that sends this process a signal in the epoch of that number."""
    run = Engine.epoch

    def step(self: Engine, now: int) -> dict[str, float]:
        if now == epoch:
            os.kill(os.getpid(), number)
        return run(self, now)

    return step


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_interrupted_in_the_first_epoch_nothing_is_claimed(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(Engine, "epoch", signalled(signal.SIGINT, 0))
    assert purify(checkpoint, out) == 130
    told = capsys.readouterr()
    assert told.out == "" and "nothing is purified, so nothing is written" in told.err
    assert not out.exists()
    monkeypatch.undo()
    monkeypatch.setitem(models.MODELS, "tiny", lambda num_classes: tiny_network())
    assert purify(checkpoint, out) == 0
    before = contents(out)
    monkeypatch.setattr(Engine, "epoch", signalled(signal.SIGINT, 0))
    assert purify(checkpoint, out, "--seed", "1") == 130
    assert contents(out) == before


def test_the_interrupted_demo_claims_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "ARCH", "tiny")
    monkeypatch.setattr(demo, "PLAN", Plan(epochs=1, batch_size=64, lr=0.05))
    quick = {"epochs": "2", "inner_epochs": "1", "examine": "false"}
    monkeypatch.setattr(demo, "RECIPE", get_recipe("official").with_options(quick))
    for epoch, written in ((0, False), (1, True)):
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "epoch", signalled(signal.SIGTERM, epoch))
            assert main(["demo", "--out", str(tmp_path / "out")]) == 143
        assert ("purified in" not in capsys.readouterr().out) and (
            (tmp_path / "out").exists() == written
        )
    report = report_of(tmp_path / "out")
    assert report is not None and len(report["history"]) == 1
    assert "backdoored.safetensors" in report["sha256"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no such signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_that_end_leave_what_was_reached(
    name: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    number = getattr(signal, name)
    handlers = signal.getsignal(number)
    monkeypatch.setattr(Engine, "epoch", signalled(number, 1))
    assert purify(checkpoint, tmp_path / "out") == 128 + number
    told = capsys.readouterr()
    assert "interrupted after 1 epochs" in told.out and "purified" not in told.out
    report = report_of(tmp_path / "out")
    assert report is not None and len(report["history"]) == 1
    assert signal.getsignal(number) is handlers


def test_a_second_interrupt_while_writing_waits(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []
    write, collect = atomic.write_part, writing._collect

    def interrupting(path: Path, data: bytes) -> Path:
        os.kill(os.getpid(), signal.SIGINT)
        sent.append(path.name)
        return write(path, data)

    def interrupted_before(*args: Any) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGINT)
        return collect(*args)

    monkeypatch.setattr(writing, "_collect", interrupted_before)

    monkeypatch.setattr(Engine, "epoch", signalled(signal.SIGINT, 1))
    monkeypatch.setattr(together, "write_part", interrupting)
    assert purify(checkpoint, tmp_path / "out") == 130
    assert "report.json" in sent
    assert report_of(tmp_path / "out") is not None
    assert load_file(tmp_path / "out" / "model.safetensors")


def test_ignored_hangups_stay_ignored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`nohup awm ...` goes on when its terminal is closed."""

    def hang_up(args: argparse.Namespace) -> int:
        os.kill(os.getpid(), signal.SIGHUP)
        return 0

    monkeypatch.setattr(info, "run", hang_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert main(["info"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_unforeseen_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise KeyError("a\x1b[31m\nkey" + 1000 * "x")

    monkeypatch.setattr(info, "run", fail)
    monkeypatch.delenv("AWM_DEBUG", raising=False)
    line = line_of(capsys, 70, "info")
    assert "unexpected KeyError" in line and "--debug" in line and "report it" in line
    for argv in (["--debug", "info"], ["info", "--debug"]):
        assert main(argv) == 70
        err = capsys.readouterr().err
        assert "Traceback" in err and "in fail" in err
    monkeypatch.setenv("AWM_DEBUG", "1")
    assert main(["info"]) == 70
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc.cpp] . DefaultCPUAllocator: can't allocate memory: x"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        MemoryError(),
    ],
)
def test_full_memory_says_what_to_do(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(info, "run", fail)
    assert line_of(capsys, 2, "info") == f"awm: error: {MEMORY}"
    assert "batch_size" in MEMORY


def test_memory_that_purify_lacks(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """PyTorch's own words, of an allocation that no machine can serve."""

    def epoch(self: Engine, number: int) -> dict[str, float]:
        torch.empty(2**50)
        raise AssertionError

    monkeypatch.setattr(Engine, "epoch", epoch)
    argv = ["purify", checkpoint, *MODEL, *QUICK, "--out", tmp_path / "out"]
    assert "not enough for one image at a time" in line_of(capsys, 2, *argv)
    assert not (tmp_path / "out").exists()


def test_text_for_a_terminal() -> None:
    assert escape("ü → 5\x1b[2J\n\u202e") == "ü → 5\\x1b[2J\\n\\u202e"
    assert escape("\udcff") == "\\udcff"
    assert shorten("x" * 600) == "x" * 600
    assert len(shorten("x" * 100_000)) < 620 and shorten("x" * 100_000 + "end").endswith("end")


BIG = "9" * 300_000


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--seed", str(2**64)], "--seed"),
        (["--seed", BIG], "--seed"),
        (["--set", f"epochs={10**20}"], "epochs"),
        (["--set", f"epochs={BIG}"], "epochs"),
        (["--set", "tau=nan"], "tau"),
        (["--set", "mask_lr=inf"], "mask_lr"),
        (["--set", "alpha=1e400"], "alpha"),
        (["--set", "tau=1e300"], "tau"),
        (["--set", "tau=-inf"], "tau"),
        (["--n", str(10**20)], "--n"),
        (["--n", str(10**9)], "n: expected 1 to"),
        (["--per-class", BIG], "--per-class"),
        (["--num-classes", str(10**9)], "--num-classes"),
        (["--mean", "nan", "--std", "1"], "--mean"),
        (["--mean", "0", "--std", "inf"], "--std"),
        (["--mean", "0", "--std", "0"], "std"),
        (["--out", "/dev/null"], "/dev/null: expected a folder"),
        (["--out", "/dev/null/below"], "/dev/null/below: expected a folder"),
        (["--set", "x" * 100_000 + "=1"], "recipe option"),
        (["--recipe", "\x1b[31m"], "--recipe"),
    ],
)
@pytest.mark.usefixtures("no_work")
def test_wrong_numbers_and_folders_of_purify(
    options: list[str],
    part: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["purify", checkpoint, *MODEL, *QUICK, "--out", tmp_path / "out", *options]
    assert part in line_of(capsys, 2, *argv)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ([*TRAIN, "--seed", str(10**15)], "seed"),
        ([*TRAIN, "--lr", "nan"], "--lr"),
        ([*TRAIN, "--lr", "-1"], "--lr"),
        ([*TRAIN, "--weight-decay", "1e400"], "--weight-decay"),
        ([*TRAIN, "--label-smoothing", "-1"], "--label-smoothing"),
        ([*TRAIN, "--poison-rate", "nan"], "--poison-rate"),
        ([*TRAIN, "--epochs", str(10**20)], "--epochs"),
        ([*TRAIN, "--images", str(10**9)], "n: expected 1 to"),
        ([*TRAIN, "--target", BIG], "--target"),
        ([*TRAIN, "--out", "/dev/null/below"], "/dev/null/below"),
        (["demo", "--seed", str(2**64)], "--seed"),
        (["demo", "--out", "/dev/null"], "/dev/null"),
        (["reproduce", "table2", "--models", "none", "--seeds", BIG], "--seeds"),
        (["reproduce", "table2", "--models", "none", "--out", "/dev/null/x"], "/dev/null/x"),
    ],
)
def test_wrong_numbers_and_folders_of_other_commands(
    argv: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [] if "--out" in argv else ["--out", str(tmp_path / "out")]
    assert part in line_of(capsys, 2, *argv, *out)
    assert list(tmp_path.iterdir()) == []


def test_every_seed_that_training_takes_is_one_that_pytorch_takes() -> None:
    for seed in (-(2**63) // SEEDS_APART + 1, 2**63 // SEEDS_APART - 1):
        assert Plan(seed=seed).seed == seed
        for epoch in (0, SEEDS_APART):
            torch.Generator().manual_seed(seed * SEEDS_APART + epoch)
    with pytest.raises(ValueError, match="seed: expected a whole number from"):
        Plan(seed=2**63 // SEEDS_APART)


@pytest.mark.usefixtures("no_work")
def test_an_input_is_never_overwritten(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    weights = checkpoint.read_bytes()
    own = out / "masks.safetensors"
    own.write_bytes(weights)
    given = [own]
    for name, link in (("model.safetensors", os.link), ("report.json", os.symlink)):
        link(checkpoint, out / name)
        given.append(checkpoint)
        assert "overwritten" in line_of(capsys, 2, "purify", given[-1], *MODEL, "--out", out)
        (out / name).unlink()
    assert "overwritten" in line_of(capsys, 2, "purify", own, *MODEL, "--out", out)
    # Of several, one may lie where another's result goes.
    argv = ["purify", own, checkpoint, *MODEL, "--out", tmp_path]
    (tmp_path / "net").symlink_to(out)
    assert "overwritten" in line_of(capsys, 2, *argv)
    assert own.read_bytes() == weights and contents(out).keys() == {own.name}


def test_training_overwrites_neither_its_inputs_nor_a_purified_network(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    os.link(checkpoint, out / "training.pt")
    for option in ("--init", "--clean-model"):
        assert "overwritten" in line_of(capsys, 2, *TRAIN, "--out", out, option, checkpoint)
    (out / "training.pt").unlink()
    (out / "report.json").write_text("{}")
    assert "overwritten" in line_of(capsys, 2, *TRAIN, "--out", out)
    (out / "report.json").unlink()
    (out / "manifest.json").write_text("{}")
    assert "overwritten" in line_of(capsys, 2, "demo", "--out", out)


def cut_off(folder: Path, sign: str) -> None:
    """Leave what a kill leaves in the middle of writing the files that are there."""
    files: dict[str, bytes | None] = {
        path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()
    }
    with contextlib.suppress(KeyboardInterrupt), unfinished(folder, sign, files):
        raise KeyboardInterrupt
    assert (folder / UNFINISHED.format(sign)).is_file()


def test_a_full_disk_at_the_start_of_training_gives_no_right_to_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*TRAIN, "--epochs", "1", "--images", "64", "--precision", "fp32", "--out", tmp_path]
    mark = tmp_path / UNFINISHED.format("manifest.json")

    def full(part: Path, path: Path) -> None:
        raise OSError(errno.ENOSPC, "can't be written: No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("awm_defense.files.together.put_in_place", full)
        assert "No space left" in line_of(capsys, 2, *argv)
    assert mark.is_file()
    (tmp_path / "trigger.png").write_bytes(b"mine")
    assert "trigger.png is of no result that awm wrote" in line_of(capsys, 2, *argv)
    mark.write_bytes(b"")
    assert "trigger.png is of no result that awm wrote" in line_of(capsys, 2, *argv)
    assert (tmp_path / "trigger.png").read_bytes() == b"mine"
    (tmp_path / "trigger.png").unlink()
    assert main([str(word) for word in argv]) == 0
    assert not [*tmp_path.glob(".awm*")]


def test_a_kill_at_the_very_end_of_training(tmp_path: Path) -> None:
    """All is written, and what a training would go on from is not removed yet."""
    argv = [*TRAIN, "--epochs", "1", "--images", "64", "--precision", "fp32", "--out"]
    assert main([*argv, str(tmp_path)]) == 0
    before = contents(tmp_path)
    (tmp_path / "training.pt").write_bytes(b"of the last epoch")
    cut_off(tmp_path, "model.safetensors")
    assert main([*argv, str(tmp_path)]) == 0
    assert contents(tmp_path) == before
    (tmp_path / "training.pt").write_bytes(b"of someone else")
    assert main([*argv, str(tmp_path)]) == 0
    assert (tmp_path / "training.pt").read_bytes() == b"of someone else"


def test_a_network_that_comes_while_one_is_trained_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "out", tmp_path / "out" / "model.safetensors"
    argv = [*TRAIN, "--epochs", "1", "--images", "64", "--precision", "fp32", "--out", out]
    measure, measured = backdoor._measure, 0

    def with_visitor(*given: Any) -> dict[str, float]:
        nonlocal measured
        measured += 1
        if measured == 2:  # once in training, then at the end
            model.write_bytes(b"mine")
        return measure(*given)

    monkeypatch.setattr(backdoor, "_measure", with_visitor)
    for _ in range(2):  # and again, while it is there
        line = line_of(capsys, 2, *argv)
        assert f"{model} is not of this training" in line and "same command goes on" in line
        assert model.read_bytes() == b"mine" and (out / "training.pt").exists()
    model.unlink()
    assert main([*map(str, argv)]) == 0
    assert load_file(model) and not (out / "training.pt").exists()


def test_a_trigger_of_someone_else_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = [*TRAIN, "--epochs", "1", "--images", "64", "--precision", "fp32", "--out", out]
    assert main([*map(str, argv)]) == 0
    (out / "model.safetensors").unlink()  # it is made anew
    (out / "trigger_field.npy").write_bytes(b"mine")
    capsys.readouterr()
    assert "trigger_field.npy is of no result" in line_of(capsys, 2, *argv)
    (out / "trigger_field.npy").unlink()
    assert main([*map(str, argv)]) == 0


@pytest.mark.parametrize("name", ["found.png", "trigger.png", "masks.safetensors", "margins.png"])
def test_what_lies_beside_a_result_is_not_overwritten(
    name: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    rival = ["purify", checkpoint, *MODEL, "--recipe", "finetune", "--set", "epochs=1"]
    rival += ["--precision", "fp32", "--out", out]
    assert main([*map(str, rival)]) == 0
    report = report_of(out)
    assert report is not None
    assert sorted(path.name for path in out.iterdir()) == report["files"]
    (out / name).write_bytes(b"mine")
    before = contents(out)
    capsys.readouterr()
    line = line_of(capsys, 2, *rival)
    assert f"{out / name} is of no result that awm wrote" in line and contents(out) == before
    (out / name).unlink()
    assert main([*map(str, rival)]) == 0
    # A result of before files were listed is replaced as a whole.
    del report["files"]
    (out / "report.json").write_text(json.dumps(report))
    (out / name).write_bytes(b"of an old result")
    assert main([*map(str, rival)]) == 0 and not (out / name).exists()


@pytest.mark.parametrize("listed", [3, "found.png", {"found.png": 1}, [["found.png"]], None])
def test_a_list_that_is_none_lists_nothing(
    listed: Any, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"title": "", "recipe": {}, "history": [], "files": listed}
    (tmp_path / "report.json").write_text(json.dumps(found))
    (tmp_path / "found.png").write_bytes(b"mine")
    line_of(capsys, 2, "purify", checkpoint, *MODEL, "--out", tmp_path)
    assert (tmp_path / "found.png").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["model.safetensors", "report.html", "report.json", "found.png"])
@pytest.mark.parametrize("folder", [False, True])
def test_what_comes_during_a_run_is_kept_and_so_is_the_work(
    name: str,
    folder: bool,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, run = tmp_path / "out", Engine.epoch

    def epoch(self: Engine, number: int) -> dict[str, float]:
        if folder:
            (out / name).mkdir(exist_ok=True)
        else:
            (out / name).write_bytes(b"mine")
        return run(self, number)

    monkeypatch.setattr(Engine, "epoch", epoch)
    assert purify(checkpoint, out) == 0
    told = capsys.readouterr()
    assert f"{out / 'awm-1' / 'report.html'}" in told.out
    assert f"what came into {out} meanwhile is kept" in told.err
    assert str(out / "awm-1" / "model.safetensors") in told.err.splitlines()[-1]
    assert sorted(path.name for path in out.iterdir()) == sorted(["awm-1", name])
    assert (out / name).is_dir() or (out / name).read_bytes() == b"mine"
    report = report_of(out / "awm-1")
    assert report is not None
    assert sorted(path.name for path in (out / "awm-1").iterdir()) == report["files"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no lock of this kind")
@pytest.mark.usefixtures("no_work")
def test_two_runs_into_one_folder(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    commands: list[list[object]] = [
        ["purify", checkpoint, *MODEL],
        [*TRAIN],
        ["demo"],
        ["reproduce", "table2", "--models", tmp_path],
    ]
    with output_folder(out):
        for argv in commands:
            assert "another run is writing" in line_of(capsys, 2, *argv, "--out", out)


def test_links_in_the_folder_are_not_followed(checkpoint: Path, tmp_path: Path) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine"
    assert purify(checkpoint, out) == 0
    mine.write_bytes(b"mine")
    for name in ("model.safetensors", "report.html", "trigger.png"):
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to(mine)
    assert purify(checkpoint, out) == 0
    assert mine.read_bytes() == b"mine"
    assert report_of(out) is not None and not any(path.is_symlink() for path in out.iterdir())


OURS = {
    "purify": ("model.safetensors", "masks.safetensors", "report.html", "report.json", "clean.png"),
    "demo": ("backdoored.safetensors", "history.png"),
    "train": ("model.safetensors", "training.pt", "manifest.json", "trigger_field.npy"),
    "reproduce": ("table2.json", "table2.md"),
}


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command in OURS for name in OURS[command]]
)
@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.usefixtures("no_work")
def test_what_is_of_no_result_is_not_overwritten(
    command: str,
    name: str,
    folder: bool,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    commands: dict[str, list[object]] = {
        "purify": ["purify", checkpoint, *MODEL],
        "demo": ["demo"],
        "train": [*TRAIN],
        "reproduce": ["reproduce", "table2", "--models", tmp_path],
    }
    if folder:
        (out / name).mkdir()
    else:
        (out / name).write_text('{"mine": 1}')
    line = line_of(capsys, 2, *commands[command], "--out", out)
    assert str(out / name) in line
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).is_dir() or (out / name).read_text() == '{"mine": 1}'


def test_a_result_that_a_kill_cut_off_is_written_anew(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert purify(checkpoint, out) == 0
    (out / "report.json").unlink()
    assert purify(checkpoint, out) == 2
    cut_off(out, "report.json")
    (out / "masks.safetensors").write_bytes(b"of someone else")
    assert purify(checkpoint, out) == 2
    assert (out / "masks.safetensors").read_bytes() == b"of someone else"
    (out / "masks.safetensors").unlink()
    assert purify(checkpoint, out) == 0
    assert report_of(out) is not None and not [*out.glob(".awm*")]


IMPATIENT = """
import atexit, os, signal, sys
from awm_defense.commands import info
from awm_defense.commands.main import main

def interrupt(*given):
    os.kill(os.getpid(), signal.SIGINT)
    return 0

info.run = interrupt
print_ = sys.stderr.write
sys.stderr.write = lambda text: (interrupt(), print_(text))[1]
atexit.register(interrupt)
sys.argv = ["awm", "info"]
sys.exit(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no such signals")
def test_many_interrupts_are_one() -> None:
    """Some come while the command ends."""
    argv = [sys.executable, "-c", IMPATIENT]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "awm: interrupted\n")


ENDS = """
import atexit, os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    atexit.register(os.kill, os.getpid(), number)
from awm_defense.__main__ import main
sys.argv = ["awm", *sys.argv[1:]]
sys.exit(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no such signals")
@pytest.mark.parametrize(("words", "code"), [(["info"], 0), (["nonsense"], 2)])
def test_signals_once_the_command_has_ended_change_nothing(words: list[str], code: int) -> None:
    told = subprocess.run([sys.executable, "-c", ENDS, *words], capture_output=True, text=True)
    assert told.returncode == code
    assert "Traceback" not in told.stderr and "interrupted" not in told.stderr


def test_whoever_reads_may_stop(tmp_path: Path) -> None:
    """As in `awm info | head -1`: no traceback, and what a shell expects."""
    argv = [sys.executable, "-m", "awm_defense", "info"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_kills_while_files_are_written() -> None:
    """A few of the faults of the soak test, at the same moments each time."""
    argv = [sys.executable, "-m", "tests.soak.kills", "--count", "8", "--only", "purify", "train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "nothing half written, nothing mixed" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc to see processes in")
def test_an_ended_run_does_not_wait_for_its_workers(place: Place, tmp_path: Path) -> None:
    """A signal from elsewhere reaches the run alone; in a terminal it reaches the workers, too."""
    process = start_grid(tmp_path, place, tmp_path / "out", 2, "awm+epochs=100000")
    wait_for(lambda: len(children(process.pid)) >= 3)
    started = children(process.pid)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    wait_for(lambda: not any(map(runs, started)))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc to see processes in")
@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c_while_workers_start(ignored: bool, place: Place, tmp_path: Path) -> None:
    """It ends all without a traceback, or changes nothing where it is ignored."""
    handler = signal.SIG_IGN if ignored else signal.default_int_handler
    words = ["reproduce", "table2", "--arch", "small_vgg", "--models", str(place.models)]
    words += ["--cells", "badnets,clp,seed*", "--seeds", "2", "--limit", "20", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "awm_defense", *words, "--out", str(tmp_path / "out")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
    )
    wait_for(lambda: len(children(process.pid)) >= 3)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert "Traceback" not in said and "failed" not in said
    assert process.returncode == (0 if ignored else 130), said


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc to see processes in")
def test_a_killed_worker_loses_no_finished_cell(place: Place, tmp_path: Path) -> None:
    cells = [Cell("small_vgg", "badnets", 0, "none", limit=50), CELL]
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    before = set(children.read_text().split())

    def killing(cells: list[Cell], place: Place, count: int) -> Iterator[workers.Outcome]:
        outcomes = workers.in_processes(cells, place, count)
        yield next(outcomes)
        os.kill(max(map(int, set(children.read_text().split()) - before)), signal.SIGKILL)
        yield from outcomes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("awm_defense.reproduce.grid.in_processes", killing)
        report = run_grid(cells, place, tmp_path, workers=2)
    assert len(report.run) == 1 and len(report.failed) == 1
    (error,) = report.failed.values()
    assert "terminated abruptly" in error
    first = read_results(tmp_path, cells)
    assert run_grid(cells, place, tmp_path).run == list(report.failed)
    assert first.items() <= read_results(tmp_path, cells).items()
    json.dumps([found["metrics"] for found in read_results(tmp_path, cells).values()])
