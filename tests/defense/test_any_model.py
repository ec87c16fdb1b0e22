"""Any network from the command line: own code, other packages, and what doesn't fit."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from awm_defense.commands import examine, networks, pictures, purify
from awm_defense.commands.main import build_parser, main
from awm_defense.files.checkpoint import load_into, load_state_dict, save_model
from awm_defense.inputs.take import UNNORMALISED
from awm_defense.models import build_model
from awm_defense.models.named import build_named, build_to_fit, nearest, prepare_named
from awm_defense.models.own_code import build_own
from tests.defense.test_cli import fails

from tests.torchvision_ops import torchvision  # isort: skip
import timm
import transformers

QUICK = ["--recipe", "official", "--set", "epochs=1", "--set", "tau=5", "--precision", "fp32"]
CODE = """
from torch import nn
from beside import WIDTH

def make(num_classes=4):
    pooled = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * WIDTH, num_classes)
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.BatchNorm2d(WIDTH), nn.ReLU(), *pooled)

def fails(): raise RuntimeError("no luck")
def gives_a_number(): return 7
def asks(num_classes): return make(num_classes)

class Nested(nn.Sequential):
    def forward(self, x):
        return {"head": {"classes": super().forward(x)}}

class Picked(Nested):
    def forward(self, x):
        return super().forward(x)["head"]["classes"]

def nested(): return Nested(*make())
def picked(): return Picked(*make())
number = 7
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with own code, its checkpoint and photographs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(CODE)
    (tmp_path / "beside.py").write_text("WIDTH = 8\n")
    torch.manual_seed(0)
    torch.save({"model_state_dict": build_own("net.py:make").state_dict()}, "own.pt")
    numbers = np.random.default_rng(0)
    for label in range(4):
        for number in range(2):
            pixels = numbers.integers(0, 64, (20, 20 + number, 3)) + 40 * label
            for path in (f"photos/class{label}/{number}.jpg", f"flat/{label}{number}.jpg"):
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path


def awm(*words: object) -> int:
    return main([str(word) for word in words])


def test_own_code_and_a_folder_of_photographs(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["own.pt", "--model", "net.py:make", "--size", "12"]
    assert awm("purify", *own, "--images", "photos", *QUICK, "--out", "out") == 0
    out, told = capsys.readouterr()
    made = "12x12, the middle 1 kept, bilinear"
    assert f"images at photos: 8 in 4 classes; {made}\n" in told
    report = json.loads(Path("out/report.json").read_text())
    assert (report["model"], report["arch"]) == ("net.py:make", None)
    assert (report["images_from"], report["images"]) == ("photos", 4)
    assert report["images_made"] == made
    right = report["right"]
    assert right["of"] == 4 and f"{right['before']} were classified right before" in out
    page = Path("out/report.html").read_text()
    assert f"{right['after']} after" in page and "Next: measure accuracy" in page
    assert "do not go to 0" in page and "<td>arch</td>" not in page
    assert [Path(name).parent.name for name in report["image_files"]] == [
        f"class{label}" for label in range(4)
    ]
    purified = build_own("net.py:make")
    load_into(purified, load_state_dict(Path("out/model.safetensors")))
    assert load_file("out/masks.safetensors").keys() == {"0"}
    # The command that was printed measures what was written.
    printed = told.partition("known attack: awm ")[2].strip().replace("TEST_IMAGES", "photos")
    command = shlex.split(printed.replace("ATTACK", "badnets").replace(" T", " 3"))
    assert awm(*command, "--json") == 0
    assert json.loads(capsys.readouterr().out).keys() >= {"acc", "asr"}
    assert awm("evaluate", *own, "--images", "photos", "--limit", "3") == 0
    assert "on 3 test images of photos" in capsys.readouterr().err


def test_a_module_that_was_saved_whole(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As TrojAI's rounds have them: model.pt, and images beside it with a JSON file each."""
    network = build_own("net.py:make")
    network.load_state_dict(torch.load("own.pt")["model_state_dict"])
    torch.save(network, "model.pt")
    for path in sorted(Path("flat").iterdir()):
        path.with_suffix(".json").write_text("3")
    words = ["--model", "net.py:make", "--size", "12", "--images", "flat", *QUICK]
    for name in ("model", "own"):
        assert awm("purify", f"{name}.pt", *words, "--out", name) == 0
    purified = [Path(name, "model.safetensors").read_bytes() for name in ("model", "own")]
    assert purified[0] == purified[1]
    assert awm("purify", "model.pt", *words[2:], "--out", "out") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "--arch or --model: expected one of them, as model.pt does not say which" in line


def test_no_labels(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["own.pt", "--model", "net.py:make", "--size", "12", "--images", "flat"]
    assert awm("purify", *own, *QUICK, "--n", "5", "--out", "out") == 0
    told = capsys.readouterr().err
    assert "no labels were given" in told and "images at flat: 8 without labels; " in told
    assert "no mean and std: pixels go in as they are" in told and UNNORMALISED in told
    report = json.loads(Path("out/report.json").read_text())
    assert len(report["image_files"]) == report["images"] == 5
    assert any("no labels" in note for note in report["notes"])
    # Without a number, one image of each class that the network names.
    assert awm("purify", *own, *QUICK, "--out", "out") == 0
    assert json.loads(Path("out/report.json").read_text())["images"] <= 4
    capsys.readouterr()
    assert awm("purify", *own, *QUICK, "--mean", ".5", "--std", ".2", "--out", "other") == 0
    told = capsys.readouterr().err
    assert "no mean and std" not in told and UNNORMALISED not in told
    capsys.readouterr()
    assert awm("evaluate", *own) == 2
    assert "awm: error: --images: flat has no labels to measure with" in capsys.readouterr().err


@pytest.mark.parametrize("triggered", [(), ("--triggered-dir", "triggered", "--target", "0")])
@pytest.mark.parametrize("given", ["some", "some.npz"])
def test_every_image_that_is_measured_has_a_class(
    given: str, triggered: tuple[str, ...], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in ("some/a.png", "some/b.png", "triggered/1/a.png"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 12)).save(path)
    Path("some/labels.csv").write_text("a.png,1\nb.png,\n")
    np.savez("some.npz", x=np.zeros((2, 12, 12, 3), np.uint8), y=np.array([1, -1]))
    own = ["own.pt", "--model", "net.py:make", "--images", given]
    assert awm("evaluate", *own, *triggered) == 2
    out, err = capsys.readouterr()
    expected = f"{given}: expected the class of each image to measure, got none for 1 of 2"
    assert out == "" and expected in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--dataset", "digits", "--size", "16"], "--size: .* got the data set digits"),
        (["--dataset", "digits", "--crop", "0.5"], "--crop: .* got the data set digits"),
        (["--dataset", "digits", "--grey"], "--grey: .* got the data set digits"),
        (["--images", "all.npz", "--size", "16"], "--size: .* got the arrays all.npz"),
        (["--images", "all.npz", "--crop", "1"], "--crop: .* got the arrays all.npz"),
        (["--images", "all.npz", "--grey"], "--grey: .* got the arrays all.npz"),
    ],
)
def test_options_of_no_use_are_refused(
    options: list[str], part: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("all.npz", x=np.zeros((4, 12, 12, 3), np.uint8), y=np.arange(4))
    own = ["own.pt", "--model", "net.py:make"]
    assert re.search(part, fails(capsys, "evaluate", *own, *options))
    assert awm("evaluate", *own, "--images", "all.npz", "--size", "12") == 0


def test_classes_without_an_image(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["own.pt", "--model", "net.py:make", "--size", "12", "--images", "photos"]
    (place / "photos" / "class3").rename(place / "class3")
    assert awm("purify", *own, *QUICK, "--out", "out") == 0
    assert (
        "note: 1 of the 4 classes that the network knows have no image" in capsys.readouterr().err
    )
    for label in range(2):
        (place / "photos" / f"class{label}").rename(place / f"class{label}")
    for words in (["purify", *own, *QUICK, "--out", "out"], ["examine", *own]):
        assert awm(*words) == 2
        assert "images: expected some of at least two classes" in capsys.readouterr().err
    assert awm("purify", *own, *QUICK, "--n", "2", "--out", "out") == 0


def test_the_images_stay_as_they_are(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["purify", "own.pt", "--model", "net.py:make", "--size", "12", "--images", "flat"]
    for out in ("flat", "flat/purified", "photos/../flat"):
        assert "is in the folder of the images" in fails(capsys, *own, "--out", out)


def test_examine_takes_them_too(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def look(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, **options: Any) -> Any:
        seen.append((images.shape, labels.tolist(), options["mean"]))
        warnings.warn("what is seen at once", stacklevel=2)
        return SimpleNamespace(facts=lambda: {"backdoored": False})

    monkeypatch.setattr(examine, "examine", look)
    own = ["own.pt", "--model", "net.py:make", "--size", "12", "10", "--mean", "0.5", "--std", "1"]
    assert awm("examine", *own, "--images", "photos", "--json") == 0
    assert seen == [((4, 3, 12, 10), [0, 1, 2, 3], [0.5])]
    assert "\nnote: what is seen at once\n" in capsys.readouterr().err


def test_a_warning_tells_what_accuracy_is_wrong(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An untrained network knows no class."""
    model = build_own("net.py:make")
    with torch.no_grad():
        model[-1].weight.zero_()
        model[-1].bias.copy_(torch.tensor([1.0, 0, 0, 0]))
    save_model(Path("wrong.safetensors"), model)
    own = ["wrong.safetensors", "--model", "net.py:make", "--size", "12", "--images", "photos"]
    assert awm("purify", *own, *QUICK, "--out", "out") == 0
    err = capsys.readouterr().err
    assert err.count("note: the network classifies 1 of the 4 given images right") == 1
    notes = json.loads(Path("out/report.json").read_text())["notes"]
    assert len(notes) > 1 and all(err.count(f"note: {note}\n") == 1 for note in notes)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("net.py", "expected package.module:factory or path/to/file.py:factory, got 'net.py'"),
        ("nowhere.py:make", "nowhere.py: no such file"),
        ("no_such_package:make", "failed: ModuleNotFoundError"),
        ("net.py:lacking", "expected a function or class lacking in net.py"),
        ("net.py:number", "expected a function or class number"),
        ("net.py:fails", "net.py:fails failed: RuntimeError: no luck"),
        ("net.py:gives_a_number", "to return a torch.nn.Module, got int"),
        ("net.py:asks", "asks for num_classes, so give --num-classes"),
    ],
)
def test_own_code_that_is_no_factory(
    place: Path, capsys: pytest.CaptureFixture[str], model: str, says: str
) -> None:
    line = fails(capsys, "evaluate", "own.pt", "--model", model, "--images", "photos")
    assert "--model: " in line and says in line


@pytest.mark.filterwarnings("ignore:the network classifies")
@pytest.mark.parametrize(
    ("command", "images"),
    [(command, "photos") for command in ("examine", "purify", "evaluate")]
    + [(command, "flat") for command in ("examine", "purify")],
)
def test_own_code_that_returns_no_logits_is_one_sentence(
    place: Path, capsys: pytest.CaptureFixture[str], command: str, images: str
) -> None:
    words = [command, "own.pt", "--images", images, "--size", "12"]
    words += [*QUICK, "--out", "out"] if command == "purify" else []
    assert awm(*words, "--model", "net.py:nested") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    expected = "awm: error: own.pt: model: expected logits (n, classes), got dict; let its forward"
    assert line.startswith(expected)
    assert awm(*words, "--model", "net.py:picked") == 0


def test_one_logit_tells_two_classes_of_images_without_labels(place: Path) -> None:
    class Brightness(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((1, 2, 3))[:, None] - 0.5

    bright = torch.tensor([0.1, 0.2, 0.8, 0.9])[:, None, None, None].expand(4, 3, 8, 8)
    np.savez("bright.npz", x=bright.numpy())
    words = ["examine", "own.pt", "--model", "net.py:make", "--images", "bright.npz"]
    given = pictures.open_pictures(build_parser().parse_args(words))
    drawn = given.draw(Brightness(), per_class=1)
    assert len(drawn.images) == 2


def test_own_code_by_the_name_of_its_module(place: Path) -> None:
    (place / "my_nets").mkdir()
    (place / "my_nets" / "small.py").write_text("from torch import nn\nmake = nn.Identity\n")
    assert isinstance(build_own("my_nets.small:make"), nn.Identity)
    assert build_own("net.py:make", 7)[-1].out_features == 7  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--arch", "vgg"], "expected one of mobilenet_v2"),
        (["--arch", "timm:"], "timm:NAME, torchvision:NAME, hf:FOLDER, got 'timm:'"),
        (["--arch", "onnx:x"], "hf:FOLDER, got 'onnx:x'"),
        (["--arch", "small_vgg", "--model", "net.py:make"], "not allowed with"),
        (["--model", "net.py:make", "--dataset", "digits"], "not allowed with"),
        (["--model", "net.py:make", "--grey", "--rgb"], "not allowed with"),
        (["--model", "net.py:make", "--size", "1", "2", "3"], "--size: expected one number"),
        (["--model", "net.py:make", "--size", "0"], "--size"),
        (["--model", "net.py:make", "--crop", "0"], "--crop: expected a number from 0.01 to 1"),
        (["--model", "net.py:make", "--retune", "3"], "--retune: expected --dataset"),
        (["--arch", "small_vgg", "--grey"], "--grey: small_vgg takes three channels"),
    ],
)
def test_wrong_options(
    place: Path, capsys: pytest.CaptureFixture[str], options: list[str], part: str
) -> None:
    assert part in fails(capsys, "evaluate", "own.pt", "--images", "photos", *options)


def parsed(*words: str) -> argparse.Namespace:
    """The options of a command."""
    return build_parser().parse_args(["evaluate", "net.pth", "--images", "photos", *words])


def test_the_number_of_classes_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    save_model(tmp_path / "net.safetensors", build_model("small_vgg", 7))
    args = parsed("--arch", "small_vgg")
    network = networks.load_network(args, tmp_path / "net.safetensors")
    size = (3, 32, 32)
    assert networks.count_classes(args, network, size) == 7
    fitting = build_to_fit(lambda count: build_named("small_vgg", count), {})
    assert networks.count_classes(args, fitting, size) == 10


def test_own_code_is_told_the_number_of_classes_of_the_checkpoint(place: Path) -> None:
    save_model(place / "seven.safetensors", build_own("net.py:make", 7))
    args = build_parser().parse_args(
        ["examine", "seven.safetensors", "--images", "photos", "--model", "net.py:make"]
    )
    network = networks.load_network(args, place / "seven.safetensors")
    assert networks.count_classes(args, network, (3, 12, 12)) == 7
    assert isinstance(build_to_fit(lambda count: nn.Identity(), {}), nn.Identity)


def test_classes_that_lost_images_are_named() -> None:
    before, after = torch.tensor([True, True, True, False]), torch.tensor([True, False, True, True])
    right = purify.compare(before, after, torch.tensor([0, 1, -1, 1]))
    assert right == {"of": 3, "before": 2, "after": 2, "classes_that_lost": []}
    right = purify.compare(before, after, torch.tensor([0, 3, 0, 2]))
    assert right == {"of": 4, "before": 3, "after": 3, "classes_that_lost": [3]}
    assert purify.compare(before, after, torch.full((4,), -1)) is None


def test_classes_that_are_numbered_from_one(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in range(4):
        Path(f"photos/class{label}").rename(f"photos/{label + 1}")
    own = ["own.pt", "--model", "net.py:make", "--size", "12", "--images", "photos"]
    assert awm("evaluate", *own) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "photos: expected classes from 0 to 3, as own.pt has; numbers begin at 0, these" in line


def test_images_of_another_size_than_the_network_takes(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("fixed.py").write_text(
        "from torch import nn\n"
        "def make(): return nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 4))\n"
    )
    save_model(Path("fixed.safetensors"), build_own("fixed.py:make"))
    words = ["fixed.safetensors", "--model", "fixed.py:make", "--images", "photos/class0"]
    for number in range(2):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(f"photos/class0/{number}.jpg")
    assert awm("examine", *words) == 2
    assert "; --size sets theirs" in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_in_the_place_of_weights(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, "evaluate", "photos", "--model", "net.py:make", "--images", "photos")
    assert "photos: expected the file of the weights, such as model.safetensors" in line


def test_options_count_more_than_what_the_package_says() -> None:
    arch = "--arch", "timm:resnet10t"
    found = networks.get_preparation(parsed(*arch))
    assert (found.size, found.filter) == ((176, 176), "bicubic")
    assert found.mean == pytest.approx((0.485, 0.456, 0.406))
    changed = networks.get_preparation(parsed(*arch, "--size", "32", "--crop", "1", "--grey"))
    assert (changed.size, changed.crop, changed.grey) == ((32, 32), 1.0, True)
    assert changed.mean is not None
    assert list(changed.mean) == pytest.approx([(0.485 + 0.456 + 0.406) / 3])
    own = networks.get_preparation(parsed(*arch, "--mean", "0", "--std", "1"))
    assert (own.mean, own.std) == ([0.0], [1.0])


def test_a_name_of_timm(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = timm.create_model("resnet10t", num_classes=4).state_dict()
    wrapped = {f"module.{name}": value for name, value in state.items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, "my.pth")
    named = ["my.pth", "--arch", "timm:resnet10t", "--images", "photos", "--size", "32"]
    assert awm("evaluate", *named, "--json") == 0
    assert json.loads(capsys.readouterr().out).keys() == {"acc"}
    grey = timm.create_model("resnet10t", num_classes=4, in_chans=1)
    save_model(Path("grey.safetensors"), grey)
    assert awm("evaluate", "grey.safetensors", *named[1:], "--grey") == 0
    capsys.readouterr()
    assert "did you mean resnet10t" in fails(
        capsys, "evaluate", "my.pth", "--arch", "timm:resnet10", "--images", "photos"
    )


def test_a_name_of_torchvision(place: Path) -> None:
    network = torchvision.models.squeezenet1_1(num_classes=4)
    save_model(Path("net.safetensors"), network)
    args = parsed("--arch", "torchvision:squeezenet1_1")
    found = networks.load_network(args, Path("net.safetensors"))
    assert type(found) is type(network)
    assert all(torch.equal(v, found.state_dict()[k]) for k, v in network.state_dict().items())
    wanted = prepare_named("torchvision:squeezenet1_1")
    assert (wanted.size, wanted.crop) == ((224, 224), 0.875)


@pytest.mark.parametrize("name", ["raft_large", "fcn_resnet50", "s3d", "get_model", "swin3d_t"])
def test_what_does_not_classify_images_is_refused(
    name: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fails(
        capsys, "evaluate", "own.pt", "--arch", f"torchvision:{name}", "--images", "photos"
    )
    assert f"--arch: torchvision knows no image classifier '{name}'" in line


def test_a_folder_of_hugging_face(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "image_size": 16, "patch_size": 8}
    config = transformers.ViTConfig(**sizes, id2label={n: str(n) for n in range(4)})
    network = transformers.ViTForImageClassification(config).eval()
    network.save_pretrained("vit")
    settings = json.loads(Path("vit/config.json").read_text())
    settings |= {"auto_map": {"AutoConfig": "evil.Evil"}, "dtype": "float16"}
    Path("vit/config.json").write_text(json.dumps(settings))
    processor: dict[str, Any] = {"size": {"height": 16, "width": 16}, "image_mean": [0.5] * 3}
    processor |= {"image_std": [0.25] * 3, "resample": 3}
    Path("vit/preprocessor_config.json").write_text(json.dumps(processor))
    args = parsed("--arch", "hf:vit")
    images = torch.rand(2, 3, 16, 16)
    expected = network(images).logits
    found = networks.load_network(args, Path("vit/model.safetensors"))
    torch.testing.assert_close(found(images).logits, expected)
    # What is written has other names than Hugging Face's own files, and is read as well.
    save_model(Path("purified.safetensors"), found)
    again = networks.load_network(args, Path("purified.safetensors"))
    torch.testing.assert_close(again(images).logits, expected)
    wanted = prepare_named("hf:vit")
    assert (wanted.size, wanted.squash, wanted.filter) == ((16, 16), True, "bicubic")
    assert (wanted.mean, wanted.std) == ([0.5] * 3, [0.25] * 3)
    capsys.readouterr()
    line = fails(capsys, "evaluate", "own.pt", "--arch", "hf:vit", "--images", "photos")
    assert "own.pt: the weights don't fit" in line and "missing: vit" in line
    save_model(Path("more.safetensors"), {**network.state_dict(), "extra": torch.ones(1)})
    with pytest.raises(ValueError, match="unknown: extra"):
        networks.load_network(args, Path("more.safetensors"))


def test_settings_of_a_network_that_no_memory_holds(tmp_path: Path) -> None:
    settings = {"model_type": "vit", "hidden_size": 12 * 10**4}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"config\.json: .* more than 8589934592 bytes"):
        build_named(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("processor", "size", "crop", "squash"),
    [
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224}, 224, 0.875, 0),
        ({"size": 224}, 224, 1.0, 1),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, 224, 0.875, 0),
        ({"do_resize": False}, None, 1.0, 1),
        ({"do_resize": True, "size": None}, None, 1.0, 1),
    ],
)
def test_processors_of_hugging_face(
    tmp_path: Path, processor: dict[str, Any], size: int | None, crop: float, squash: int
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    found = prepare_named(f"hf:{tmp_path}")
    assert found.size == (None if size is None else (size, size))
    assert (found.crop, found.squash) == (crop, bool(squash))
    assert prepare_named(f"hf:{tmp_path / 'none'}").size is None


STATS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SQUARE = {"height": 48, "width": 48}
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet-50": ("ConvNext", {"size": 224, "crop_pct": 0.875, "resample": 3, **STATS}),
    "convnext": ("ConvNext", {"size": {"shortest_edge": 384}, "resample": 3, **STATS}),
    "vit": ("ViT", {"size": SQUARE, **STATS}),
    "vit of one number": ("ViT", {"size": 48, **STATS}),
    "bytes": ("ViT", {"size": SQUARE, "do_rescale": False, "do_normalize": False}),
    "bytes, normalised": ("ViT", {"size": SQUARE, "do_rescale": False, **STATS}),
    "from 0 to 2": ("ViT", {"size": SQUARE, "rescale_factor": 1 / 127.5, "do_normalize": False}),
    "square, then cropped": (
        "Beit",
        {"size": SQUARE, "do_center_crop": True, "crop_size": {"height": 36, "width": 36}, **STATS},
    ),
    "shortest, then cropped": (
        "CLIP",
        {"size": {"shortest_edge": 48}, "do_center_crop": True, "crop_size": 36, **STATS},
    ),
    "shortest of one number": (
        "Bit",
        {"size": 48, "do_center_crop": True, "crop_size": 36, **STATS},
    ),
    "efficientnet": ("EfficientNet", {"size": SQUARE, "resample": 0, **STATS}),
    "efficientnet, once": ("EfficientNet", {"size": SQUARE, "include_top": False, **STATS}),
    "mobilevit": (
        "MobileViT",
        {"size": 48, "crop_size": 36, "do_center_crop": True, "do_flip_channel_order": False},
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("filtered", [{"resample": 2}, {}], ids=["bilinear", "not said"])
def test_processors_make_of_a_picture_what_transformers_makes(
    name: str, filtered: dict[str, int], tmp_path: Path
) -> None:
    kind, content = PROCESSORS[name]
    content = {"image_processor_type": f"{kind}ImageProcessor", **filtered, **content}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    y, x = np.mgrid[:60, :80]
    pixels = np.stack([3 * x, 4 * y, 200 * ((x // 8 + y // 8) % 2)], 2).astype(np.uint8)
    picture = Image.fromarray(pixels)
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    (expected,) = theirs(picture, return_tensors="pt")["pixel_values"]
    wanted = prepare_named(f"hf:{tmp_path}")
    made = wanted.apply(picture).float() / 255
    if wanted.mean is not None and wanted.std is not None:
        mean, std = (torch.tensor(values)[:, None, None] for values in (wanted.mean, wanted.std))
        made = (made - mean) / std
    torch.testing.assert_close(made, expected.float(), atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"do_flip_channel_order": True}, "do_flip_channel_order: expected false, got true"),
        ({"image_processor_type": "MobileViTImageProcessor"}, "do_flip_channel_order: expected"),
        ({"do_pad": True}, "do_pad: expected false, got true"),
        ({"rescale_offset": True}, "rescale_offset: expected false, got true"),
        (
            {"feature_extractor_type": "PoolFormerFeatureExtractor"},
            "image_processor_type: expected",
        ),
        ({"do_normalize": True}, "image_mean, image_std: expected both"),
        ({"image_mean": [0.5]}, "image_mean, image_std: expected both"),
        ({"size": 8, "do_center_crop": True, "crop_size": 9}, "crop_size: expected a part"),
        ({"size": 8, "do_center_crop": True}, "crop_size: expected height and width"),
        ({"do_center_crop": True, "crop_size": 9}, "size: expected one"),
        ({"image_processor_type": "ViTImageProcessor", **STATS}, "size: expected one"),
        ({"size": {"longest_edge": 9}}, "size: expected height, width, shortest_edge"),
        ({"size": {"height": 9}}, "size: expected height and width"),
        ({"resample": 4}, "resample: expected one of 0 .nearest., 2 .bilinear., 3 .bicubic., 1"),
        ({"rescale_factor": 0}, "rescale_factor: expected a number from 0.0001 to 1"),
    ],
)
def test_processors_that_do_more_are_refused(
    content: dict[str, Any], says: str, tmp_path: Path
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"preprocessor_config\.json: {says}"):
        prepare_named(f"hf:{tmp_path}")


def test_no_option_sets_how_large_settings_may_be(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("large").mkdir()
    Path("large/config.json").write_bytes(bytes(5 << 20))
    line = fails(capsys, "evaluate", "own.pt", "--arch", "hf:large", "--images", "photos")
    assert line.endswith("config.json: expected at most 4 MiB, got 5 MiB\n")


def test_a_missing_package_is_one_sentence(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    line = fails(capsys, "evaluate", "own.pt", "--arch", "timm:resnet18", "--images", "photos")
    assert line.strip() == "awm: error: timm can't be imported: pip install timm"


def test_weights_of_another_network_are_recognised(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"netC": build_model("resnet18", 4).state_dict()}, "other.pt")
    line = fails(capsys, "evaluate", "other.pt", "--arch", "small_vgg", "--images", "photos")
    assert "other.pt: the weights don't fit into SmallVGG: missing: " in line
    assert "they look like those of --arch resnet18" in line
    assert nearest({"weight": torch.ones(1)}) is None


@pytest.mark.parametrize("nest", ["model_state_dict", "netC", "network", "ema", "model_ema"])
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "model.", "backbone.net."])
def test_where_scripts_put_weights(tmp_path: Path, nest: str, prefix: str) -> None:
    own = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    state = {prefix + name: value for name, value in own.state_dict().items()}
    torch.save({nest: state, "epoch": 3}, tmp_path / "net.pth")
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    load_into(made, load_state_dict(tmp_path / "net.pth"))
    assert all(torch.equal(v, made.state_dict()[k]) for k, v in own.state_dict().items())


def test_an_average_does_not_count_beside_the_weights(tmp_path: Path) -> None:
    state = {"weight": torch.ones(2)}
    torch.save({"model": state, "ema": {"weight": torch.zeros(2)}}, tmp_path / "net.pth")
    assert torch.equal(load_state_dict(tmp_path / "net.pth")["weight"], state["weight"])


def test_images_made_of_a_network_of_own_code(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("awm_defense.synthesis.STEPS", 2)
    own = ["own.pt", "--model", "net.py:make", "--size", "12", "--per-class", "0"]
    assert awm("purify", *own, *QUICK, "--out", "out") == 0
    report = json.loads(Path("out/report.json").read_text())
    assert report["images"] == 48 and report["image_files"] == []
    capsys.readouterr()
    line = fails(capsys, "purify", *own[:3], *QUICK, "--out", "out")
    assert "--dataset or --images: expected" in line
