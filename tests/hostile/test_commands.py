"""A command that is given a hostile file says so in one line, and ends with code 2."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from awm_defense.commands.main import main
from awm_defense.files.checkpoint import save_model
from awm_defense.models import build_model
from tests.hostile import pickling as p
from tests.hostile.case import Make, written
from tests.hostile.pixels import EPS, png, saved
from tests.hostile.records import ENTRY, GOOD_BATCH, as_json, changed, with_batches

ATTACK = ("--attack", "trojan_sq", "--target", "3", "--trigger-image", "trigger.png")
MASKED = ("--attack", "l0_inv", "--target", "3", "--trigger-image", "trigger.png")
NETWORK = ("--arch", "small_vgg", "--num-classes", "10", "--dataset", "digits")


def weights(name: str, value: float) -> Callable[[Path], None]:
    """Writes a network with one weight that is none."""

    def make(path: Path) -> None:
        model = build_model("small_vgg", 10)
        state = model.state_dict()
        state[name].flatten()[0] = value
        save_model(path, state)

    return make


FIRST = next(iter(build_model("small_vgg", 10).state_dict()))


@pytest.mark.parametrize(
    ("file", "make", "arguments", "says"),
    [
        ("net.pth", lambda path: p.write_zip(path, p.named("os", "system")), (), "os.system"),
        ("net.pth", os.mkfifo, (), "a named pipe"),
        ("net.pth", weights(FIRST, torch.nan), (), "NaN or infinite values"),
        ("net.pth", lambda path: p.write_zip(path, p.doubled(60)), (), "net.pth"),
        (
            "net.pth",
            written(bytes(3 << 20)),
            ("--max-file-size", "2"),
            "at most 2 MiB, got 3 MiB; --max-file-size sets the limit",
        ),
        ("trigger.png", written(EPS), ATTACK, "got none of PNG"),
        ("trigger.png", os.mkfifo, ATTACK, "a named pipe"),
        ("mask.npy", os.mkfifo, (*MASKED, "--trigger-mask", "mask.npy"), "a named pipe"),
        (
            "mask.npy",
            written(saved(np.full((3, 32, 32), 1e30))),
            (*MASKED, "--trigger-mask", "mask.npy"),
            "values in [0,1]",
        ),
        ("manifest.json", written(b"[" * 100_000), (), "levels"),
        ("manifest.json", as_json(changed("target", 8.5)), (), "a whole number"),
        ("manifest.json", os.mkfifo, ("--manifest", "manifest.json"), "a named pipe"),
    ],
)
def test_one_line(
    file: str,
    make: Make,
    arguments: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "net.pth", build_model("small_vgg", 10))
    (tmp_path / "trigger.png").write_bytes(png(32, 32))
    (tmp_path / file).unlink(missing_ok=True)
    make(tmp_path / file)
    assert main(["evaluate", "net.pth", *NETWORK, *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("awm: error: ") and line.isprintable()
    assert file in line and says in line


def test_a_folder_s_name_writes_nothing_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, root = tmp_path / "net.safetensors", tmp_path / "\x1b[2J\ndone"
    save_model(network, build_model("small_vgg", 10))
    batch = root / "cifar-10-batches-py" / "data_batch_1"
    batch.parent.mkdir(parents=True)
    with_batches(GOOD_BATCH)(batch)
    arguments = (*NETWORK[:-1], "cifar10", "--data-dir", str(root))
    assert main(["evaluate", str(network), *arguments]) == 0
    lines = capsys.readouterr().err.splitlines()
    notes = [line for line in lines if "not the official file" in line]
    assert len(notes) == 6
    assert all(line.startswith("note: ") and line.isprintable() for line in notes)
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("command", ["evaluate", "examine"])
def test_weights_that_are_finite_and_too_large(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every logit would be NaN, and each image of class 0."""
    path = tmp_path / "net.safetensors"
    model = build_model("small_vgg", 10)
    huge = {name: torch.full_like(w, 3e38) for name, w in model.state_dict().items() if w.dim() > 1}
    save_model(path, model.state_dict() | huge)
    assert main([command, str(path), *NETWORK]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert f"awm: error: {path}: model: expected finite logits" in err


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("arch", "\x1b[2J", "arch: expected one of "),
        ("arch", "timm:", "arch: expected one of "),
        ("dataset", "imagenet", "dataset: expected one of cifar10, digits, gtsrb, got 'imagenet'"),
    ],
)
def test_a_manifest_of_unknown_names(
    name: str, value: str, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the options say counts more, so it is only refused where nothing else is known."""
    path = tmp_path / "manifest.json"
    as_json(changed(name, value))(path)
    assert main(["evaluate", str(tmp_path / "net.pth")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"awm: error: {path}: {says}") and line.isprintable()
    option = {"arch": "small_vgg", "dataset": "digits"}[name]
    assert main(["evaluate", str(tmp_path / "net.pth"), f"--{name}", option]) == 2
    assert says not in capfd.readouterr().err


def npz(pixels: np.ndarray, labels: object) -> Make:
    return lambda path: np.savez(path, images=pixels, labels=np.array(labels))


def a_manifest(trigger: dict[str, object], **files: bytes) -> Make:
    """With the attack that the trigger is of."""

    def make(path: Path) -> None:
        for name, content in files.items():
            path.with_name(name).write_bytes(content)
        attack = "wanet" if "field" in trigger else "blended"
        as_json({**ENTRY, "dataset": "digits", "attack": attack, "trigger": trigger})(path)

    return make


PIXELS = np.zeros((4, 3, 32, 32), dtype=np.float32)
BLEND = {"image": "t", "mode": "blend", "opacity": 0.0}


NO_PIXELS, OF_ONE = npz(PIXELS + 255, [0, 1, 2, 3]), npz(PIXELS, [0, 0, 0, 0])


@pytest.mark.parametrize(
    ("command", "file", "make", "says"),
    [
        ("evaluate", "images.npz", NO_PIXELS, "images: expected pixel values in [0, 1]"),
        ("examine", "images.npz", NO_PIXELS, "images: expected pixel values in [0, 1]"),
        ("purify", "images.npz", NO_PIXELS, "images: expected pixel values in [0, 1]"),
        ("examine", "images.npz", OF_ONE, "images: expected some of at least two classes"),
        ("purify", "images.npz", OF_ONE, "images: expected some of at least two classes"),
        ("evaluate", "images.npz", npz(PIXELS, [0, 1, -1, 3]), "expected the class of each"),
        (
            "evaluate",
            "manifest.json",
            a_manifest({"field": "f"}, f=saved(np.zeros((8, 8, 2)))),
            "trigger_field: expected (32, 32, 2), as large as the images, got (8, 8, 2)",
        ),
        (
            "evaluate",
            "manifest.json",
            a_manifest(BLEND, t=png(32, 32)),
            "attack: expected a trigger that changes images",
        ),
        (
            "evaluate",
            "manifest.json",
            a_manifest({"mode": "blend"}),
            "expected an attack's entry: trigger_image: blended needs its trigger",
        ),
    ],
)
def test_what_a_file_gives_is_refused_by_its_name(
    command: str,
    file: str,
    make: Make,
    says: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path, network = tmp_path / file, tmp_path / "net.safetensors"
    make(path)
    save_model(network, build_model("small_vgg", 10))
    given = ["--images", str(path), "--arch", "small_vgg"] if file == "images.npz" else []
    to = ["--out", str(tmp_path / "out"), "--recipe", "clp"] if command == "purify" else []
    assert main([command, str(network), *given, *to]) == 2
    error = capfd.readouterr().err.partition("awm: error: ")[2]
    assert f"{path}: {says}" in error
