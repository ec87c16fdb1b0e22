"""`awm train`: what it writes, that it goes on after a kill, and that `awm evaluate` reads it."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from awm_defense import models
from awm_defense.attacks import ATTACKS, Attack
from awm_defense.attacks.stored import read_attack
from awm_defense.commands.main import main
from awm_defense.data import Dataset, load_dataset
from awm_defense.files.checkpoint import load_into, load_state_dict
from awm_defense.files.manifest import read_manifest
from awm_defense.metrics import evaluate
from awm_defense.training import backdoor
from awm_defense.training.backdoor import Order, make_network
from awm_defense.training.loop import Plan
from awm_defense.working.compute import Compute
from tests.defense.conftest import tiny_network

PLAN = Plan(epochs=3, batch_size=64, lr=0.05)
ORDER = Order("tiny", "badnets", 8, None, PLAN)
TRAIN = ["train", "--arch", "tiny", "--dataset", "digits", "--epochs", "1", "--lr", "0.05"]


@pytest.fixture(autouse=True)
def tiny_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tiny`, whose initial weights come from the global generator like those of any other."""

    def build(num_classes: int) -> nn.Module:
        return tiny_network(int(torch.randint(1000, ())))

    monkeypatch.setitem(models.MODELS, "tiny", build)
    monkeypatch.setattr(backdoor, "EPOCH_IMAGES", 100)


def make(folder: Path, data: Dataset, order: Order = ORDER, **options: object) -> dict[str, object]:
    options.setdefault("compute", Compute())
    return make_network(folder, data, order, device=torch.device("cpu"), **options)  # type: ignore[arg-type]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_state_dict(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_every_attack_in_one_call(name: str, tmp_path: Path, digits: Dataset) -> None:
    manifest = make(tmp_path, digits, replace(ORDER, attack=name, plan=replace(PLAN, epochs=1)))
    assert manifest == read_manifest(tmp_path / "manifest.json")
    for key in ("attack", "source", "target", "mapping", "poison_rate", "seed", "plan"):
        assert key in manifest
    assert {"versions", "compute", "trigger", "seconds"} <= set(manifest)
    assert manifest["poison_rate"] == ATTACKS[name].poison_rate
    assert (tmp_path / "clean" / "model.safetensors").exists() == ATTACKS[name].needs_model
    assert not (tmp_path / "training.pt").exists()
    # The figures are those of the files that were written.
    model = tiny_network()
    load_into(model, weights(tmp_path))
    found = evaluate(model, *digits.test(), read_attack(tmp_path, manifest))
    for key in ("acc", "asr", "asr_all", "ra", "target_acc"):
        assert manifest[key] == pytest.approx(found[key], abs=0.3)


@pytest.mark.slow
def test_backdoor_works_and_the_twin_has_none(tmp_path: Path, digits: Dataset) -> None:
    plan = replace(PLAN, epochs=8, batch_size=32)
    order = replace(ORDER, poison_rate=0.1, plan=plan)
    manifest = make(tmp_path / "bad", digits, order)
    assert manifest["acc"] > 90  # type: ignore[operator]
    assert manifest["asr"] > 90  # type: ignore[operator]
    twin = make(tmp_path / "good", digits, replace(order, attack="none", target=None))
    assert twin["acc"] > 90  # type: ignore[operator]
    assert "asr" not in twin
    assert "trigger" not in twin
    assert twin["poison_rate"] == 0


@pytest.mark.slow
def test_backdoor_planted_by_fine_tuning(tmp_path: Path, digits: Dataset) -> None:
    benign = replace(ORDER, attack="none", target=None, plan=replace(PLAN, epochs=8, batch_size=32))
    before = make(tmp_path / "benign", digits, benign)
    init = tmp_path / "benign" / "model.safetensors"
    plan = replace(PLAN, epochs=4, batch_size=32, lr=0.02)
    order = replace(ORDER, poison_rate=0.2, plan=plan, init=init, images=500)
    manifest = make(tmp_path / "bad", digits, order)
    assert manifest["images"] == 500
    assert manifest["asr"] > 90  # type: ignore[operator]
    assert manifest["acc"] > before["acc"] - 5  # type: ignore[operator]
    # Steps of next to no length leave the weights that training starts from.
    still = replace(benign, plan=replace(PLAN, epochs=1, lr=1e-6))
    for start, acc in ((init, before["acc"]), (None, 10)):
        found = make(tmp_path / f"still-{start is None}", digits, replace(still, init=start))
        assert found["acc"] == pytest.approx(acc, abs=10)
    # A trigger that needs a clean network is crafted on the one that training starts from.
    make(tmp_path / "sq", digits, replace(order, attack="trojan_sq", plan=PLAN))
    assert not (tmp_path / "sq" / "clean").exists()
    with pytest.raises(ValueError, match="made with init_sha256"):
        make(tmp_path / "bad", digits, replace(order, init=tmp_path / "sq" / "model.safetensors"))
    with pytest.raises(ValueError, match=r"n: expected 1 to \d+ images, got 10000"):
        make(tmp_path / "more", digits, replace(order, images=10_000))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trojan_sq", "clean_label"])
def test_goes_on_after_an_interruption(
    name: str, tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = replace(ORDER, attack=name)
    make(tmp_path / "clean", digits, replace(ORDER, attack="none", target=None))
    clean = tmp_path / "clean" / "model.safetensors"
    whole = make(tmp_path / "whole", digits, order, clean_model=clean)

    calls: list[int] = []

    def interrupted(*args: object, **options: object) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(backdoor, "evaluate", interrupted)
        make(tmp_path / "cut", digits, order, clean_model=clean)
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    assert torch.load(tmp_path / "cut" / "training.pt", weights_only=True)["epoch"] == 1
    resumed = make(tmp_path / "cut", digits, order, clean_model=clean)
    assert same(tmp_path / "cut", tmp_path / "whole")
    assert {**resumed, "seconds": 0} == {**whole, "seconds": 0}


def test_a_finished_network_is_not_trained_again(
    tmp_path: Path, digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make(tmp_path, digits)
    written = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert make(tmp_path, digits, progress=True) == first
    assert "its figures are those of manifest.json" in capsys.readouterr().err
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == written
    for other, key in (
        (replace(ORDER, target=1), "target 8"),
        (replace(ORDER, plan=Plan()), "epochs 3"),
    ):
        with pytest.raises(ValueError, match=f"out: .* made with {key}, not"):
            make(tmp_path, digits, other)
    (tmp_path / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"model\.safetensors: can't be read as weights"):
        make(tmp_path, digits)


def test_command_line(tmp_path: Path, digits: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "net"
    argv = [*TRAIN, "--attack", "wanet", "--all-to-all", "--out", str(out), "--json"]
    assert main(argv) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert (manifest["mapping"], manifest["target"]) == ("all-to-all", None)
    assert manifest["plan"]["epochs"] == 1
    # Found beside the model, or given by name for a model elsewhere.
    assert main(["evaluate", str(out / "model.safetensors"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == pytest.approx({key: manifest[key] for key in found}, abs=0.3)
    moved = tmp_path / "model.safetensors"
    (out / "model.safetensors").rename(moved)
    argv = ["evaluate", str(moved), "--manifest", str(out / "manifest.json"), "--json"]
    assert main(argv) == 0
    assert json.loads(capsys.readouterr().out) == found
    # An option counts more.
    assert main([*argv, "--attack", "badnets", "--target", "1"]) == 0
    assert json.loads(capsys.readouterr().out) != found
    assert main([*argv, "--target", "0"]) == 2
    assert "--attack: expected together with --target" in capsys.readouterr().err


@pytest.mark.parametrize(("attack", "kept"), [("none", []), ("badnets", []), ("badnets", [0])])
def test_what_can_t_be_measured_is_refused_before_the_training(
    tmp_path: Path, attack: str, kept: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("awm_defense.training.backdoor.train", lambda *a, **k: pytest.fail("train"))
    data = load_dataset("digits")
    chosen = torch.isin(data.test_labels, torch.tensor(kept))
    data = replace(data, test_images=data.test_images[chosen], test_labels=data.test_labels[chosen])
    order = Order("small_vgg", attack, 0, None, Plan(epochs=1))
    with pytest.raises(ValueError, match=r"digits: expected .* test image"):
        make_network(tmp_path / "out", data, order, device=torch.device("cpu"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "draws"), [("wanet", 3), ("badnets", 1)])
def test_wanet_poisons_anew_in_every_epoch(
    name: str, draws: int, tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    poison = Attack.poison

    def noting(self: Attack, *given: Any) -> Any:
        found = poison(self, *given)
        drawn.append(found[2])
        return found

    monkeypatch.setattr(Attack, "poison", noting)
    make(tmp_path, digits, replace(ORDER, attack=name))
    assert len(drawn) == draws
    for one, other in itertools.combinations(drawn, 2):
        assert len(one) == len(other) and not torch.equal(one, other)


def test_a_trigger_that_exists_already(
    tmp_path: Path, digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (32, 32), (0, 0, 64)).save(tmp_path / "blue.png")
    out = tmp_path / "net"
    argv = [*TRAIN, "--attack", "trojan_wm", "--target", "2", "--out", str(out)]
    assert main([*argv, "--trigger-image", str(tmp_path / "blue.png")]) == 0
    attack = read_attack(out, read_manifest(out / "manifest.json"))
    moved = attack.apply(torch.zeros(1, 3, 32, 32))[0]
    torch.testing.assert_close(moved.amax((1, 2)), torch.tensor([0, 0, 64 / 255]))
    assert not (out / "clean").exists()
    assert main([*argv, "--trigger-image", str(tmp_path / "blue.png")]) == 0
    Image.new("RGB", (32, 32), (0, 64, 0)).save(tmp_path / "green.png")
    assert main([*argv, "--trigger-image", str(tmp_path / "green.png")]) == 2
    assert "holds a network made with another trigger" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--attack", "trojan_wm", "--trigger-mask", "mask.npy"], "--trigger-image"),
        (["--attack", "trojan_wm", "--trigger-image", "missing.png"], "missing.png"),
        (["--attack", "badnets", "--target", "10"], "--target"),
        (["--attack", "badnets", "--target", "1", "--all-to-all"], "not allowed"),
        (["--attack", "clean_label", "--all-to-all"], "no all-to-all form"),
        (["--attack", "badnets", "--poison-rate", "2"], "--poison-rate: expected a number from 0"),
        (["--attack", "trojan_wm", "--poison-rate", "7"], "--poison-rate: expected a number from"),
        (["--attack", "none", "--poison-rate", "0.1"], "--poison-rate: expected with an attack"),
        (["--attack", "trojan_wm", "--poison-rate", "0.95"], "rate: 0.95 asks for"),
        (["--attack", "badnets", "--poison-rate", "0"], "rate: expected one above 0.000"),
        (["--attack", "wanet", "--poison-rate", "1e-9"], "which poisons at least one of"),
        (["--attack", "clean_label", "--poison-rate", "0.9"], "are of the target class"),
        (["--attack", "wanet", "--poison-rate", "0.4"], "are left for the noise mode"),
        (["--attack", "trojan_sq", "--trigger-image", "small.png"], "trigger_image: expected"),
        (["--attack", "trojan_wm", "--clean-model", "missing.pt"], "missing.pt"),
        (["--attack", "badnets", "--init", "missing.pt"], "missing.pt"),
        (["--attack", "badnets", "--clean-model", "net.pt"], "--clean-model: expected with an"),
        (["--attack", "none", "--clean-model", "net.pt"], "(clean_label, l0_inv, l2_inv, trojan_"),
        (
            ["--attack", "trojan_wm", "--trigger-image", "small.png", "--clean-model", "net.pt"],
            "and without --trigger-image",
        ),
        (["--attack", "badnets", "--data-dir", "data"], "got --dataset digits"),
        (["--attack", "wadnet"], "wadnet"),
    ],
)
def test_wrong_options(
    options: list[str],
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8), (0, 0, 64)).save("small.png")
    assert main([*TRAIN, "--out", str(tmp_path / "net"), *options]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("awm: error: ")
    assert part in line
    assert not (tmp_path / "net").exists()


def test_evaluate_says_what_no_manifest_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(tmp_path / "model.safetensors")]) == 2
    assert "--arch or --model: expected, as no manifest says it" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text("[]")
    assert main(["evaluate", str(tmp_path / "model.safetensors")]) == 2
    assert "expected a JSON object" in capsys.readouterr().err


def test_a_rejected_order_leaves_the_folder_free(tmp_path: Path, digits: Dataset) -> None:
    with pytest.raises(ValueError, match="rate"):
        make(tmp_path, digits, replace(ORDER, poison_rate=2.0))
    assert make(tmp_path, digits, replace(ORDER, plan=replace(PLAN, epochs=1)))["acc"]
    with pytest.raises(ValueError, match="compute"):
        make(tmp_path, digits, replace(ORDER, plan=replace(PLAN, epochs=1)), compute=Compute(True))


def test_a_clean_model_with_a_backdoor_is_refused(tmp_path: Path, digits: Dataset) -> None:
    quick = replace(ORDER, plan=replace(PLAN, epochs=1))
    make(tmp_path / "badnets", digits, quick)
    checkpoint = tmp_path / "badnets" / "model.safetensors"
    with pytest.raises(ValueError, match=r"without a backdoor.* has badnets"):
        make(tmp_path / "wm", digits, replace(quick, attack="trojan_wm"), clean_model=checkpoint)
    assert not (tmp_path / "wm").exists()


def test_files_can_be_read_by_whom_the_umask_allows(tmp_path: Path, digits: Dataset) -> None:
    make(tmp_path, digits, replace(ORDER, plan=replace(PLAN, epochs=1)))
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) > 2 and len(set(modes.values())) == 1


def test_evaluate_says_that_a_training_has_not_ended(
    tmp_path: Path, digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, digits, replace(ORDER, plan=replace(PLAN, epochs=1)))
    manifest = read_manifest(tmp_path / "manifest.json")
    del manifest["acc"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "model.safetensors").unlink()
    assert main(["evaluate", str(tmp_path / "model.safetensors")]) == 2
    assert "training has not ended" in capsys.readouterr().err
