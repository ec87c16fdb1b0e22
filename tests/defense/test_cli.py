"""The `awm` command: what it prints where, what it writes, and how it fails."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import awm_defense
import awm_kernels
from awm_defense.awm.engine import Engine
from awm_defense.awm.recipe import get_recipe
from awm_defense.commands import demo, evaluate, info, networks, options, purify, train
from awm_defense.commands.main import build_parser, main
from awm_defense.files.arrays import read_image
from awm_defense.files.checkpoint import save_model
from awm_defense.files.door import OpenFile, read_file
from awm_defense.models import build_model
from tests.defense.cells import write_network

MODEL = ["--arch", "small_vgg", "--num-classes", "10", "--dataset", "digits"]
BADNETS = ["--attack", "badnets", "--target", "8"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network: the command line is tested here, not the defense."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "net.safetensors"
    save_model(path, build_model("small_vgg", 10))
    return path


def fails(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """Run `awm` with wrong input; returns the one line it must print on standard error."""
    assert main([str(word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("awm: error: ")
    assert err.count("\n") == 1
    return err


def test_info_json_lists_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "badnets" in found["attacks"]
    assert {"small_vgg", "resnet18"} <= set(found["models"])
    assert {"digits", "cifar10"} <= set(found["datasets"])
    assert {"anp", "ibau", "clp"} <= set(found["rivals"])
    assert {"paper", "official", "default"} <= set(found["recipes"])
    assert found["ops"] == list(awm_kernels.OPS)
    assert found["backends"]["reference"]["available"] is True
    for status in found["backends"].values():
        assert set(status) == {"available", "why", "how"}


def test_info_text_names_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for name in ("reference", "cpu", "cuda", "triton", "badnets", "mask_step_"):
        assert name in text


def test_evaluate_prints_one_json_object(
    capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    assert main(["evaluate", str(checkpoint), *MODEL, *BADNETS, "--limit", "64", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert "a white square, rows 27 to 30, columns 27 to 30, from 0" in err
    assert set(found) == {"acc", "asr", "asr_all", "ra", "target_acc"}
    assert all(0 <= value <= 100 for value in found.values())


def test_evaluate_without_an_attack_measures_accuracy(
    capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    assert main(["evaluate", str(checkpoint), *MODEL, "--limit", "64", "--json"]) == 0
    out, err = capsys.readouterr()
    assert set(json.loads(out)) == {"acc"} and "no attack is named" in err
    # It is untrained.
    assert "of the 64 given images right" in err and "usual causes" in err


@pytest.mark.slow
def test_evaluate_after_fine_tuning(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained network learns from 100 images; the backdoor that it lacks stays away."""
    before = checkpoint.read_bytes()
    argv = ["evaluate", str(checkpoint), *MODEL, *BADNETS, "--limit", "128", "--retune", "100"]
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = {"acc", "asr", "asr_all", "ra", "target_acc"}
    assert set(found) == names | {f"retuned_{name}" for name in names}
    assert found["retuned_acc"] > found["acc"] + 10
    assert checkpoint.read_bytes() == before
    measured = iter([{"acc": 90.0, "asr": 1.0}, {"acc": 91.0, "asr": 80.0}])
    monkeypatch.setattr(evaluate, "evaluate", lambda *args, **options: next(measured))
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "after fine-tuning on 100 clean images" in out
    assert "the backdoor wakes up: ASR +79.0 points" in out


@pytest.mark.parametrize("shape", [(3, 32, 32), (32, 32)])
def test_evaluate_reads_trigger_files(
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    tmp_path: Path,
    shape: tuple[int, ...],
) -> None:
    Image.new("RGB", (32, 32), (0, 0, 64)).save(tmp_path / "trigger.png")
    np.save(tmp_path / "mask.npy", np.zeros(shape))
    files = ["--trigger-image", tmp_path / "trigger.png", "--trigger-mask", tmp_path / "mask.npy"]
    attack = ["--attack", "l0_inv", "--target", "0", "--trigger-mode", "replace", *files]
    argv = ["evaluate", checkpoint, *MODEL, *attack, "--limit", "32"]
    assert main([str(word) for word in argv]) == 0
    assert "asr_all" in capsys.readouterr().out
    assert read_image(tmp_path / "trigger.png")[:, 0, 0].tolist() == pytest.approx([0, 0, 64 / 255])


def test_a_folder_where_a_file_belongs_is_found_first(
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(purify, "purify_many", lambda *_, **__: pytest.fail("the work began"))
    (tmp_path / "report.json").mkdir()
    line = fails(capsys, "purify", checkpoint, *MODEL, "--out", tmp_path)
    assert f"{tmp_path / 'report.json'}: Is a directory" in line


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_purify_of_a_file_whose_name_is_not_utf_8(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd, out = tmp_path / "net\udcff.safetensors", tmp_path / "out\udcfe"
    odd.write_bytes(checkpoint.read_bytes())
    assert main(["purify", str(odd), *MODEL, "--recipe", "clp", "--out", str(out)]) == 0
    assert json.loads((out / "report.json").read_bytes())["checkpoint"] == odd.name
    assert "net\\udcff.safetensors" in (out / "report.html").read_text("utf-8")
    assert "out\\udcfe" in capsys.readouterr().out


@pytest.mark.slow
def test_purify_writes_everything(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "out"
    settings = ["--recipe", "official", "--set", "epochs=1", "--set", "tau=100", "--seed", "5"]
    assert main(["purify", str(checkpoint), *MODEL, *settings, "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert str(out / "report.html") in told.out
    purified, original = load_file(out / "model.safetensors"), load_file(checkpoint)
    assert list(purified) == list(original)
    masks = load_file(out / "masks.safetensors")
    assert all(mask.min() >= 0 and mask.max() <= 1 for mask in masks.values())
    report = json.loads((out / "report.json").read_text())
    assert report["recipe"]["epochs"] == 1
    assert report["recipe"]["tau"] == 100
    assert (report["recipe"]["name"], report["seed"], report["images"]) == ("official", 5, 10)
    assert (out / "trigger.png").exists()
    # The result is a checkpoint like any other, and the command that was printed measures it.
    printed = told.err.partition("known attack: awm ")[2].strip()
    command = shlex.split(printed.replace("ATTACK", "badnets").replace(" T", " 8"))
    assert command[:2] == ["evaluate", str(out / "model.safetensors")]
    assert main([*command, "--limit", "8"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("data", [["--dataset", "digits"], ["--per-class", "0"]])
def test_purify_of_a_network_with_a_manifest_says_how_to_measure_that_attack(
    data: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("awm_defense.synthesis.STEPS", 3)
    network = tmp_path / "badnets"
    write_network(network)
    model = ["--arch", "small_vgg", "--num-classes", "10", *data]
    argv = ["purify", network / "model.safetensors", *model, "--recipe", "clp", "--out"]
    assert main([str(word) for word in [*argv, tmp_path / "out"]]) == 0
    told = capsys.readouterr()
    command = shlex.split(told.err.partition("known attack: awm ")[2])
    assert command[-2:] == ["--manifest", str(network / "manifest.json")]
    assert main([*command, "--limit", "32"]) == 0
    assert "asr_all" in capsys.readouterr().out


@pytest.mark.slow
def test_several_checkpoints_get_a_folder_each(checkpoint: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.safetensors"
    second.write_bytes(checkpoint.read_bytes())
    settings = ["--recipe", "official", "--set", "epochs=1", "--precision", "fp32"]
    argv = ["purify", str(checkpoint), str(second), *MODEL, *settings, "--out", str(tmp_path / "o")]
    assert main(argv) == 0
    first, other = (tmp_path / "o" / path.stem for path in (checkpoint, second))
    masks = [load_file(folder / "masks.safetensors") for folder in (first, other)]
    assert all(torch.equal(masks[0][layer], masks[1][layer]) for layer in masks[0])
    report = json.loads((other / "report.json").read_text())
    assert report["checkpoint"] == "second.safetensors"
    assert report["precision"]["dtype"] == "float32"


def test_checkpoints_of_one_name_are_refused(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    assert "different names" in fails(
        capsys, "purify", checkpoint, checkpoint, *MODEL, "--out", tmp_path / "out"
    )


def test_each_folder_is_in_the_one_to_write_to(tmp_path: Path) -> None:
    names = ["a.pth", "...pth", "..pth", ".pth", "b..pth", "...."]
    out = tmp_path / "deep" / "out"
    folders = purify.output_folders(out, [tmp_path / name for name in names], [])
    assert [folder.name for folder in folders] == ["a", "...pth", "..pth", ".pth", "b.", "...."]
    assert all(folder.resolve().parent == out for folder in folders)
    with pytest.raises(ValueError, match="different names"):
        purify.output_folders(out, [tmp_path / "..pth", tmp_path / "..pth.pth"], [])


def test_what_cannot_be_read_or_written_is_found_first(
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def epoch(self: Engine, number: int) -> dict[str, float]:
        raise AssertionError("purified before everything was checked")

    monkeypatch.setattr(Engine, "epoch", epoch)
    own = tmp_path / "model.safetensors"
    own.write_bytes(checkpoint.read_bytes())
    assert "overwritten" in fails(capsys, "purify", own, *MODEL, "--out", tmp_path)
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "manifest.json").write_text("{}")
    assert "overwritten" in fails(capsys, "purify", own, *MODEL, "--out", tmp_path / "trained")
    (tmp_path / "junk.pth").write_text("junk")
    argv = ["purify", own, tmp_path / "junk.pth", *MODEL, "--out", tmp_path / "out"]
    assert "junk.pth" in fails(capsys, *argv)
    (tmp_path / "file").write_text("")
    assert "file" in fails(capsys, "purify", own, *MODEL, "--out", tmp_path / "file")
    assert own.read_bytes() == checkpoint.read_bytes()


@pytest.mark.parametrize("changed", [False, True])
def test_a_network_that_stays_as_it_is_is_not_called_purified(
    changed: bool,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def epoch(self: Engine, number: int) -> dict[str, float]:
        return {"mask_mean": 1.0, "bad": float(not changed)}

    monkeypatch.setattr(Engine, "epoch", epoch)
    monkeypatch.setattr("awm_defense.report.write._draw", lambda *given: ({}, {}))
    settings = ["--recipe", "official", "--set", "epochs=1", "--precision", "fp32"]
    argv = ["purify", checkpoint, *MODEL, *settings, "--out", tmp_path / "out"]
    assert main([str(word) for word in argv]) == 0
    assert capsys.readouterr().out.startswith("purified in" if changed else "left as it was, in")


@pytest.mark.slow
def test_interrupted_purify_writes_what_there_is(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = Engine.epoch

    def interrupting(self: Engine, number: int) -> dict[str, float]:
        if number == 1:
            raise KeyboardInterrupt
        return epoch(self, number)

    monkeypatch.setattr(Engine, "epoch", interrupting)
    given = [str(checkpoint), *MODEL, "--set", "examine=false"]
    assert main(["purify", *given, "--out", str(tmp_path / "out")]) == 130
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report["history"]) == 1 and "interrupted" in report["notes"][-1]
    assert load_file(tmp_path / "out" / "model.safetensors")


@pytest.mark.slow
def test_demo_writes_both_measurements(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(demo, "PLAN", replace(demo.PLAN, epochs=1))
    # One epoch plants no backdoor.
    recipe = get_recipe("default").with_options({"epochs": "1", "examine": "false"})
    monkeypatch.setattr(demo, "RECIPE", recipe)
    assert main(["demo", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "before" in out
    assert "after" in out
    report = json.loads((tmp_path / "report.json").read_text())
    for when in ("before", "after"):
        assert all(0 <= report[when][key] <= 100 for key in ("acc", "asr"))
    for name in ("triggered", "trigger", "masks", "history"):
        assert (tmp_path / f"{name}.png").exists()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--recipe", "official", "--set", "tau"], "KEY=VALUE"),
        (["--set", "taau=1"], "did you mean 'tau'"),
        (["--precision", "half"], "--precision"),
        (["--set", "tau=much"], "tau"),
        (["--set", "epochs=0"], "epochs: expected an integer ≥ 1, got 0"),
        (["--device", "abacus"], "abacus"),
        (["--device", "hpu"], "--device: can't use 'hpu'"),
        (["--out", ""], "--out: expected the name of a file or folder, got ''"),
        (["--out", "a\0b"], r"--out: expected the name of a file or folder, got 'a\x00b'"),
        (["--mean", "127.5", "--std", "0.5"], "127.5 of 255 is 0.5"),
        (["--mean", "0.5"], "--std"),
        (["--mean", "0.5", "0.5", "--std", "1"], "--mean"),
        (["--per-class", "-1"], "--per-class"),
        (["--per-class", "1", "--n", "5"], "not allowed"),
        (["--n", "1000000"], "1000000"),
        (["--recipe", "none"], "none"),
        (["--arch", "resnet18"], "conv1"),
        (["--num-classes", "43"], "has 10 classes, --num-classes says 43; leave out"),
        (["--dataset", "cifar10", "--data-dir", "/nonexistent"], "cifar-10-batches-py"),
        (
            ["--data-dir", "data"],
            "--data-dir: expected with a data set in a folder (cifar10, gtsrb)",
        ),
    ],
)
def test_wrong_options_of_purify(
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    tmp_path: Path,
    options: list[str],
    part: str,
) -> None:
    line = fails(capsys, "purify", checkpoint, *MODEL, "--out", tmp_path / "out", *options)
    assert part in line


@pytest.mark.parametrize("instead", [["--images", "photos"], ["--per-class", "0"]])
def test_a_folder_of_data_that_nothing_is_read_from(
    instead: list[str], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["purify", checkpoint, *MODEL[:-2], "--out", tmp_path / "out", "--data-dir", "data"]
    line = fails(capsys, *argv, *instead)
    assert "--data-dir: expected with a data set in a folder" in line and instead[0] in line


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--attack", "trojan_wm", "--target", "2"], "trigger"),
        (["--attack", "badnets", "--target", "10"], "--target"),
        (["--attack", "none", "--target", "1"], "none"),
    ],
)
def test_wrong_options_of_evaluate(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, options: list[str], part: str
) -> None:
    assert part in fails(capsys, "evaluate", checkpoint, *MODEL, *options)


@pytest.mark.parametrize("classes", [5, 12])
def test_a_network_of_other_classes_than_the_images(
    classes: int, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "net.safetensors"
    save_model(path, build_model("small_vgg", classes))
    words = ["evaluate", path, "--arch", "small_vgg", "--dataset", "digits", "--limit", "64"]
    if classes < 10:
        line = fails(capsys, *words)
        assert f"{path}: expected a network of at least 10 classes" in line
        assert "digits has, got one of 5" in line
    else:
        assert main([*map(str, words)]) == 0
        assert "the network knows 12 classes, the images are of 10" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["purify", "examine"])
def test_a_network_of_fewer_classes_than_the_images_is_named(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "net.safetensors"
    save_model(path, build_model("small_vgg", 5))
    out = ["--out", tmp_path / "out"] if command == "purify" else []
    line = fails(capsys, command, path, "--arch", "small_vgg", "--dataset", "digits", *out)
    assert f"{path}: expected a network of at least 10 classes, as digits has, got one" in line


def test_several_networks_that_differ_are_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.safetensors"
    save_model(other, build_model("small_vgg", 12))
    words = ["--arch", "small_vgg", "--dataset", "digits", "--out", tmp_path / "out"]
    line = fails(capsys, "purify", checkpoint, other, *words)
    assert f"{other}: expected the names and shapes of {checkpoint}" in line
    assert "classifier" in line
    assert not (tmp_path / "out").exists()


def test_checkpoints_that_cannot_be_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, content in {"bad.pt": b"?", "bad.safetensors": b"?", "empty.pth": b""}.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert name in fails(capsys, "evaluate", path, *MODEL, *BADNETS)
    assert "missing.pt" in fails(capsys, "evaluate", tmp_path / "missing.pt", *MODEL, *BADNETS)


def test_memory_that_runs_out_while_a_checkpoint_is_read(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*given: object, **options: object) -> NoReturn:
        raise MemoryError

    for step in ("load_state_dict", "load_into"):
        with monkeypatch.context() as patch:
            patch.setattr(networks, step, exhausted)
            line = fails(capsys, "evaluate", checkpoint, *MODEL)
        assert f"{checkpoint}: expected enough memory to read it" in line
    monkeypatch.setattr(OpenFile, "fill", exhausted)
    assert f"{checkpoint}: can't be read" in (line := fails(capsys, "evaluate", checkpoint, *MODEL))
    assert line.endswith("memory ran out\n")
    with pytest.raises(ValueError, match=f"{checkpoint.name}: can't be read: memory ran out"):
        read_file(checkpoint, 1 << 40)


def test_no_path_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    """Python takes an empty one for the current folder."""
    commands = next(
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    found = 0
    for name, parser in commands.choices.items():
        for action in parser._actions:
            assert action.type is not Path
            if action.type is options.path and action.option_strings:
                found += 1
                option = action.option_strings[0]
                line = fails(capsys, name, option, "")
                assert f"{option}: expected the name of a file or folder, got ''" in line
    assert found > 10
    assert "MODEL: expected the name of a file" in fails(capsys, "evaluate", "", *MODEL)


def test_no_folder_of_data_in_the_environment(
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWM_DATA_DIR", "")
    line = fails(capsys, "evaluate", checkpoint, *MODEL[:-1], "cifar10")
    assert "cifar10: no data folder given" in line


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "COMMAND" in fails(capsys)
    assert "invalid choice" in fails(capsys, "erase")


def test_interrupt_is_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "run", interrupted)
    assert main(["info"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_interrupted_training_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "make_network", interrupted)
    order = ["--attack", "badnets", "--arch", "small_vgg", "--dataset", "digits"]
    assert main(["train", *order, "--out", str(tmp_path)]) == 130
    assert "same command goes on" in capsys.readouterr().err


def test_every_public_name_is_found() -> None:
    assert sorted(set(awm_defense.__all__) & set(dir(awm_defense))) == sorted(awm_defense.__all__)
    for name in awm_defense.__all__:
        # Functions and classes know what they are called; tables do not.
        assert getattr(getattr(awm_defense, name), "__name__", name) == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        getattr(awm_defense, "nonsense")  # noqa: B009 - mypy would refuse it, too


WHILE_IMPORTING = """
import importlib.abc, os, signal, sys

class Impatient(importlib.abc.MetaPathFinder):
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Impatient())
from awm_defense.__main__ import main
sys.exit(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no such signals")
@pytest.mark.parametrize("module", ["awm_defense.commands.main", "argparse", "torch"])
def test_interrupt_while_modules_are_imported(module: str) -> None:
    argv = [sys.executable, "-c", WHILE_IMPORTING, module]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "awm: interrupted\n")


@pytest.mark.parametrize("variable", ["TQDM_NCOLS", "TQDM_MININTERVAL", "TORCH_LOGS"])
def test_a_variable_that_a_package_does_not_take_is_named(variable: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "awm_defense", "info"],
        env={**os.environ, variable: "zork"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("awm: error: ") and done.stderr.count("\n") == 1
    assert f"{variable}: expected what" in done.stderr and "zork" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows removes no folder that is in use")
def test_a_current_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = (
        "import os, sys; os.rmdir(os.getcwd()); from awm_defense.__main__ import main; "
        "sys.exit(main())"
    )
    argv = [sys.executable, "-c", code, "info"]
    done = subprocess.run(argv, cwd=gone, capture_output=True, text=True, check=False)
    line = (
        "awm: error: the current folder: it is gone, or can't be entered; go to another one first"
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line + "\n")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows removes no folder that is in use")
def test_a_current_folder_that_goes_meanwhile_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    line = fails(capsys, "reproduce", "table1", "--models", "nets", "--out", "out")
    assert line.startswith("awm: error: the current folder: it is gone")
    monkeypatch.chdir(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_full_standard_output_is_named() -> None:
    with open("/dev/full", "w") as full:
        argv = [sys.executable, "-m", "awm_defense", "info"]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    line = "awm: error: standard output: [Errno 28] No space left on device\n"
    assert (done.returncode, done.stderr) == (2, line)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full"])
def test_standard_error_that_takes_nothing_loses_no_work(where: str, checkpoint: Path) -> None:
    words = [sys.executable, "-m", "awm_defense", "evaluate", str(checkpoint), *MODEL]
    argv = ["sh", "-c", f"{shlex.join(words)} --limit 9 --json {where}"]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=False)
    assert done.returncode == 0
    assert set(json.loads(done.stdout)) == {"acc"}


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_a_closed_standard_output_is_an_error_before_the_work() -> None:
    argv = ["sh", "-c", f"{shlex.join([sys.executable, '-m', 'awm_defense', 'info'])} >&-"]
    done = subprocess.run(argv, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("awm: error: standard output: it is closed")
    assert done.stderr.count("\n") == 1


def test_an_encoding_that_lacks_a_letter_loses_no_result(checkpoint: Path, tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("é.safetensors", "e.safetensors")]
    for other in others:
        other.write_bytes(checkpoint.read_bytes())
    words = [sys.executable, "-m", "awm_defense", "purify", *map(str, others), *MODEL]
    done = subprocess.run(
        [*words, "--recipe", "clp", "--precision", "fp32", "--out", str(tmp_path / "out")],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.decode("ascii")
    for name in (r"\xe9", "e"):
        assert f"report: {tmp_path / 'out'}/{name}/report.html" in told.replace(os.sep, "/")
    assert (tmp_path / "out" / "e" / "report.json").exists()


@pytest.mark.slow
def test_runs_as_a_module() -> None:
    argv = [sys.executable, "-m", "awm_defense", "info", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    json.loads(done.stdout)
