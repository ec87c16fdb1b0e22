"""A folder of BackdoorBench goes through the commands, untouched by hand."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from awm_defense import purify
from awm_defense.commands.main import main
from awm_defense.files.backdoorbench import defense_result, read_record
from awm_defense.files.checkpoint import load_into, load_state_dict, save_model
from awm_defense.inputs.folder import open_triggered
from awm_defense.metrics import defense_effectiveness, evaluate_triggered
from awm_defense.models import backdoorbench
from awm_defense.models.named import build_named
from awm_defense.registry import get_settings
from tests.defense.records import TARGET, Tiny, write_record
from tests.defense.test_cli import fails

QUICK = ["--recipe", "official", "--set", "epochs=1", "--set", "tau=5", "--precision", "fp32"]
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A small network, which `preactresnet18` is a name of meanwhile."""
    monkeypatch.setattr(backdoorbench, "PreActResNet18", Tiny)
    monkeypatch.delenv("AWM_DATA_DIR", raising=False)
    torch.manual_seed(0)
    return Tiny(10)


@pytest.fixture
def record(tiny: nn.Module, tmp_path: Path) -> Path:
    return write_record(tmp_path, tiny)


def awm(*words: object) -> int:
    return main([str(word) for word in words])


def load_as_backdoorbench(path: Path) -> nn.Module:
    """As its defenses read a result: the network by its name, then all weights."""
    said = torch.load(path, map_location="cpu", weights_only=True)
    assert set(said) == {"model_name", "num_classes", "model"}
    model = build_named(f"backdoorbench:{said['model_name']}", said["num_classes"])
    model.load_state_dict(said["model"])
    return model


@pytest.mark.parametrize("given", ["folder", "file"])
def test_purify_needs_nothing_more(
    record: Path, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = load_state_dict(record / "attack_result.pt")
    assert awm("purify", record if given == "folder" else record / "attack_result.pt", *QUICK) == 0
    out = record / "defense" / "awm"
    report = json.loads((out / "report.json").read_text())
    assert (report["arch"], report["dataset"]) == ("backdoorbench:preactresnet18", "cifar10")
    assert report["images"] == 10
    assert "defense_result.pt" in report["sha256"]
    purified = load_as_backdoorbench(out / "defense_result.pt").state_dict()
    ours = load_state_dict(out / "model.safetensors")
    assert all(torch.equal(value, ours[name]) for name, value in purified.items())
    assert not torch.equal(purified["conv1.weight"], before["conv1.weight"])
    # The command that was printed measures what was written.
    told = capsys.readouterr().err
    command = shlex.split(told.partition("known attack: awm ")[2].strip())
    assert awm(*command, "--json") == 0
    assert json.loads(capsys.readouterr().out).keys() >= {"acc", "asr", "ra", "der", "before_asr"}


def test_what_purify_takes_is_what_the_options_would_say(record: Path, tmp_path: Path) -> None:
    home = record.parents[1]
    own = ["--arch", "backdoorbench:preactresnet18", "--num-classes", 10, "--dataset", "cifar10"]
    own += ["--data-dir", home / "data" / "cifar10", "--mean", *MEAN, "--std", *STD]
    for out, words in (("by-file", []), ("by-options", own)):
        words = [record / "attack_result.pt", *words, *QUICK, "--out", tmp_path / out]
        assert awm("purify", *words) == 0
    ours, same = (
        load_state_dict(tmp_path / out / "model.safetensors") for out in ("by-file", "by-options")
    )
    assert all(torch.equal(ours[name], same[name]) for name in ours)
    # Who gives options gets no file for BackdoorBench: its name of the network is not known.
    assert (tmp_path / "by-file" / "defense_result.pt").is_file()
    assert not (tmp_path / "by-options" / "defense_result.pt").exists()


def test_several_records(
    tiny: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_record(tmp_path / "one", tiny, name="a")
    other = write_record(tmp_path / "other", tiny, name="b", ending="", legacy=True)
    assert awm("purify", one, other, *QUICK, "--out", tmp_path / "out") == 0
    for name in "ab":
        load_as_backdoorbench(tmp_path / "out" / name / "defense_result.pt")
    assert awm("examine", one, other, "--json") == 0
    capsys.readouterr()
    small = write_record(tmp_path / "small", tiny, name="c", img_size=(16, 16, 3))
    line = fails(capsys, "purify", one, small, *QUICK)
    assert "attack_result.pt: expected a network and data as of" in line


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_evaluate_counts_what_is_in_the_folder(
    tiny: nn.Module, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = write_record(tmp_path, tiny, ending=ending)
    assert awm("evaluate", record, "--triggered-dir", record / "bd_test_dataset", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    paths = sorted((record / "bd_test_dataset").rglob(f"*{ending}"))
    assert len(paths) == 18
    images = torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in paths]))
    pixels = images.permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        said = tiny.eval()((pixels - mean) / std).argmax(1)
    shown = torch.tensor([int(path.parent.name) for path in paths])
    asr, ra = ((said == goal).double().mean() * 100 for goal in (TARGET, shown))
    assert found["asr"] == found["asr_all"] == pytest.approx(asr.item(), abs=1e-3)
    assert found["ra"] == pytest.approx(ra.item(), abs=1e-3)
    assert found.keys() == {"acc", "asr", "asr_all", "ra", "target_acc"}
    few = ["--triggered-dir", record / "bd_test_dataset", "--limit", 5]
    assert awm("evaluate", record, *few) == 0
    assert "on 5 triggered images" in capsys.readouterr().err


class ByPixel(nn.Module):
    """Says the class that the first pixel is."""

    def forward(self, images: Tensor) -> Tensor:
        classes = (images[:, 0, 0, 0] * 255).round().long()
        return nn.functional.one_hot(classes, 4).float()


def saying(*classes: int) -> Tensor:
    """Images of which `ByPixel` says these classes."""
    return torch.tensor(classes).view(-1, 1, 1, 1).expand(-1, 3, 4, 4) / 255


def test_figures_of_triggered_images() -> None:
    # Of the target class 1 one image is triggered, too.
    found = evaluate_triggered(
        ByPixel(),
        saying(0, 1, 2, 3, 3),
        torch.tensor([0, 1, 2, 3, 1]),
        saying(1, 1, 2, 1, 0),
        torch.tensor([0, 1, 2, 3, 3]),
        torch.ones(5, dtype=torch.int64),
    )
    expected = {"acc": 80.0, "asr": 50.0, "asr_all": 60.0, "ra": 25.0, "target_acc": 50.0}
    assert found == pytest.approx(expected)
    with pytest.raises(ValueError, match="expected some outside the target class"):
        one = torch.ones(1, dtype=torch.int64)
        evaluate_triggered(ByPixel(), saying(1), one, saying(1), one, one)


@pytest.mark.parametrize(
    ("before", "after", "rating"),
    [
        ((90, 100), (90, 0), 100),
        ((90, 100), (85, 0), 97.5),
        ((90, 100), (95, 100), 50),
        ((90, 50), (80, 60), 45),
    ],
)
def test_defense_effectiveness(
    before: tuple[float, float], after: tuple[float, float], rating: float
) -> None:
    one, other = ({"acc": acc, "asr": asr} for acc, asr in (before, after))
    assert defense_effectiveness(one, other) == rating


def test_a_defense_is_rated_against_the_attack(
    record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(record / "attack_result.pt", weights_only=False)
    model = Tiny(10)
    load_into(model, content["model"])
    nn.init.zeros_(model.linear.weight)
    with torch.no_grad():
        model.linear.bias.copy_(torch.arange(10.0))  # everything is of class 9
    path = record / "defense" / "ft" / "defense_result.pt"
    path.parent.mkdir(parents=True)
    said = read_record(record / "attack_result.pt")
    assert said is not None
    path.write_bytes(defense_result(said, model))
    where = ["--triggered-dir", record / "bd_test_dataset"]
    assert awm("evaluate", path, *where, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["acc"], found["asr"]) == (10.0, 0.0)
    assert awm("evaluate", record, *where, "--json") == 0
    attacked = json.loads(capsys.readouterr().out)
    assert (found["before_acc"], found["before_asr"]) == (attacked["acc"], attacked["asr"])
    gain, cost = attacked["asr"], max(0.0, attacked["acc"] - 10)
    assert found["der"] == pytest.approx(50 + (gain - cost) / 2, abs=1e-3)
    # The same, said by options.
    other = record.parents[1] / "net.safetensors"
    save_model(other, model)
    own = ["--arch", "backdoorbench:preactresnet18", "--dataset", "cifar10", "--target", TARGET]
    own += ["--data-dir", record.parents[1] / "data" / "cifar10", "--before", record]
    assert awm("evaluate", other, *own, *where, "--mean", *MEAN, "--std", *STD, "--json") == 0
    assert json.loads(capsys.readouterr().out) == found


@pytest.mark.parametrize("classes", [None, 7])
def test_a_network_to_compare_with_is_looked_at_before_the_work(
    classes: int | None,
    record: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def never(*_: object, **__: object) -> Any:
        raise AssertionError("measured")

    monkeypatch.setattr("awm_defense.commands.evaluate.evaluate_triggered", never)
    words = ["--triggered-dir", record / "bd_test_dataset", "--before", "missing.pth"]
    if classes is not None:
        counts = [10, classes]
        found = "awm_defense.commands.networks.count_classes"
        monkeypatch.setattr(found, lambda *_: counts.pop(0))
        words[-1] = record / "attack_result.pt"
    assert awm("evaluate", record, *words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert ("missing.pth" if classes is None else "expected a network of 10 classes") in line


def test_all_to_all(tiny: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = write_record(tmp_path, tiny, bd_test=None)
    where = ["--triggered-dir", record / "bd_test_dataset", "--json"]
    assert awm("evaluate", record, *where) == 2
    assert "--target: expected a class, or --all-to-all" in capsys.readouterr().err
    assert awm("evaluate", record, *where, "--all-to-all") == 0
    assert "target_acc" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"clean_data": "tiny"}, "--images: expected, as tiny of"),
        ({"clean_data": ...}, "--images: expected, as the data set of"),
        ({"model_name": "senet18"}, "attack_result.pt: expected a network preactresnet18, "),
        ({"model_name": 7}, "attack_result.pt: model_name: expected text, got 7"),
        ({"num_classes": 0}, "attack_result.pt: num_classes: expected a whole number from 2"),
        ({"img_size": [32]}, "attack_result.pt: img_size: expected at least 2 values"),
        ({"data_path": "../data/nowhere"}, "cifar10: no data folder given"),
        ({"data_path": "data/../data/cifar10"}, "cifar10: no data folder given"),
        ({"data_path": "data/\0/" + "a" * 300}, "cifar10: no data folder given"),
        ({"num_classes": ...}, "--arch or --model: expected one of them"),
    ],
)
def test_what_a_file_does_not_say(
    tiny: nn.Module,
    tmp_path: Path,
    change: dict[str, Any],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = write_record(tmp_path, tiny, **change)
    assert awm("purify", record, *QUICK) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert not (record / "defense").exists()


def test_images_instead_of_a_data_set(
    tiny: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = write_record(tmp_path, tiny, clean_data="celeba")
    for label in range(10):
        path = tmp_path / "photos" / str(label) / "one.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (40, 40), (20 * label, 0, 0)).save(path)
    assert awm("purify", record, "--images", tmp_path / "photos", *QUICK) == 0
    told = capsys.readouterr().err
    assert "32x32" in told and "mean" not in told.partition("images at")[2].splitlines()[0]


def test_without_any_image(record: Path) -> None:
    assert awm("purify", record, "--per-class", 0, *QUICK) == 0
    report = json.loads((record / "defense" / "awm" / "report.json").read_text())
    assert (report["dataset"], report["title"]) == (None, "Purified badnet_1")
    load_as_backdoorbench(record / "defense" / "awm" / "defense_result.pt")


def test_before_needs_an_attack(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--arch", "backdoorbench:preactresnet18", "--dataset", "cifar10", "--before", record]
    own += ["--data-dir", record.parents[1] / "data" / "cifar10"]
    assert awm("evaluate", record, *own) == 2
    assert "--before: expected together with an attack" in capsys.readouterr().err
    where = ["--triggered-dir", record / "bd_test_dataset", "--attack", "badnets", "--target", 0]
    assert "--triggered-dir: expected without --attack" in fails(capsys, "evaluate", record, *where)
    where[2:] = ["--trigger-mode", "add", "--target", 0]
    line = fails(capsys, "evaluate", record, *where)
    assert "--trigger-mode: expected without --triggered-dir" in line


def test_real_networks_are_read_and_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_named("backdoorbench:preactresnet18", 10).eval()
    record = write_record(tmp_path, model)
    found = read_record(record / "attack_result.pt")
    assert found is not None
    assert (found.model_name, found.num_classes, found.clean_data) == (
        "preactresnet18",
        10,
        "cifar10",
    )
    assert (found.size, found.targets) == ((32, 32), dict.fromkeys(range(1, 10), TARGET))
    images = torch.rand(3, 3, 32, 32)
    recipe = get_settings("official").with_options({"epochs": "1"})
    purified = purify(model, images, torch.arange(3), recipe=recipe, precision="fp32").model
    (record / "defense_result.pt").write_bytes(defense_result(found, purified))
    again = load_as_backdoorbench(record / "defense_result.pt").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(images), purified.eval()(images))


@pytest.mark.parametrize("names", [["cat", "dog"], ["0", "x1"], []])
def test_a_folder_that_has_no_numbers(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match=r"named by its number|all numbers or all words"):
        open_triggered(tmp_path, (3, 4, 4))
