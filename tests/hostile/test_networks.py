"""Settings and names that stand for networks many times as large as the weights beside them."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from awm_defense.commands.main import main
from awm_defense.files.checkpoint import save_model
from awm_defense.models import build_model
from awm_defense.models.bounded import SPARE, Oversized, build_bounded, most_bytes
from awm_defense.models.hugging_face import TYPES, _check_names, _load_transformers
from awm_defense.models.named import build_named, rename_for
from tests.hostile.case import forget_memory, highest_memory

from tests.torchvision_ops import torchvision  # isort: skip  # noqa: F401

MIB = 1 << 20


def packed(path: Path, content: object) -> None:
    """Write what `torch.save` writes, deflated."""
    plain = path.with_suffix(".plain")
    torch.save(content, plain)
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
    ):
        for name in source.namelist():
            with source.open(name) as stream, archive.open(name, "w") as target:
                shutil.copyfileobj(stream, target)
    plain.unlink()


@pytest.mark.parametrize("kind", ["timm", "settings"])
def test_a_network_of_gigabytes_beside_a_small_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("timm" if kind == "timm" else "transformers")
    monkeypatch.setattr("awm_defense.commands.networks.nearest", lambda state: None)
    path = tmp_path / "model.safetensors"
    save_model(path, build_model("small_vgg", 10))
    wide = {"hidden_size": 16_384, "intermediate_size": 16_384, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", **wide}))
    name = "timm:vit_giant_patch14_224" if kind == "timm" else f"hf:{tmp_path}"
    (tmp_path / "manifest.json").write_text(json.dumps({"arch": name, "dataset": "digits"}))
    if kind == "timm":
        build_named("timm:resnet18")  # imports are not of the file
    held = forget_memory()
    assert main(["evaluate", str(path)]) == 2
    assert highest_memory() - held < 300 * MIB
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"awm: error: {path}: the weights don't fit into {name}: they are too f")


def test_no_settings_have_another_package_read_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As timm does, in this process, of a file that a stranger names."""
    pytest.importorskip("transformers")
    monkeypatch.setattr("torch.load", lambda *args, **options: pytest.fail("torch.load"))
    settings: dict[str, Any] = {"model_type": "timm_wrapper", "architecture": "resnet18"}
    settings |= {"id2label": {"0": "a", "1": "b"}}
    arguments = {"checkpoint_path": str(tmp_path / "extra.pth")}
    (tmp_path / "config.json").write_text(json.dumps({**settings, "model_args": arguments}))
    torch.save({}, tmp_path / "extra.pth")
    save_model(tmp_path / "model.safetensors", build_model("small_vgg", 10))
    (tmp_path / "manifest.json").write_text(
        json.dumps({"arch": f"hf:{tmp_path}", "dataset": "digits"})
    )
    assert main(["evaluate", str(tmp_path / "model.safetensors")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"awm: error: {tmp_path / 'config.json'}: model_type: expected one")
    for name in (
        "local-dir:" + str(tmp_path),
        "hf-hub:timm/resnet18",
        "resnet18.x/../y",
        "resnet18.x",
    ):
        with pytest.raises(ValueError, match="timm knows no image classifier"):
            build_named(f"timm:{name}")


def test_a_manifest_of_a_network_that_does_not_classify(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "net.safetensors", build_model("small_vgg", 10))
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"arch": "torchvision:s3d", "dataset": "digits"}))
    assert main(["evaluate", str(tmp_path / "net.safetensors")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line == f"awm: error: {path}: --arch: torchvision knows no image classifier 's3d'"


@pytest.mark.parametrize("kind", TYPES)
def test_settings_that_are_taken_name_no_files_and_no_other_networks(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    _load_transformers()
    names = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    assert kind in names
    known = transformers.AutoConfig.for_model(kind)
    parts = [known, *(value for value in vars(known).values() if hasattr(value, "model_type"))]
    bare = vars(transformers.PretrainedConfig()).keys()
    own = {name for part in parts for name in vars(part).keys() - bare}
    words = ("backbone", "timm", "file", "path_", "_path", "checkpoint", "repo", "url", "args")
    unlike = {name for name in own if any(word in name for word in words)}
    assert unlike <= {"drop_path_rate"}
    assert not {name for name in own if "pretrained" in name} - {"pretrained_window_sizes"}
    # What it writes itself is taken.
    _check_names(known.to_dict(), known)


@pytest.mark.parametrize("kind", ["deit", "hgnet_v2", "perceiver"])
def test_networks_are_made_by_the_defaults_of_their_type(kind: str, tmp_path: Path) -> None:
    """Some types have several networks, or channels by the stage."""
    transformers = pytest.importorskip("transformers")
    settings = transformers.AutoConfig.for_model(kind).to_dict()
    del settings["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with torch.device("meta"):
        model = build_named(f"hf:{tmp_path}")
    assert type(model).__name__.endswith(("ForImageClassification", "ClassificationLearned"))


def test_nothing_that_settings_say_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    settings = {"model_type": "vit", "per_layer_attributes": "\x1b[2J", "transformers_weights": "/"}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"config\.json: .*expected no entry 'per_layer_attr"):
        build_named(f"hf:{tmp_path}")
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    small |= {"intermediate_size": 8, "image_size": 16, "patch_size": 8}
    labels: dict[str, Any] = {"id2label": {"0": "a", "1": "b"}, "num_labels": 3}
    labels |= {"rope_scaling": {"rope_type": "default"}}
    path.write_text(
        json.dumps({"model_type": "vit", **small, **labels, "transformers_weights": "/"})
    )
    model = build_named(f"hf:{tmp_path}")
    assert (
        rename_for(f"hf:{tmp_path}", model, model.state_dict()).keys() == model.state_dict().keys()
    )
    assert capfd.readouterr() == ("", "")


def test_many_views_of_few_numbers_are_few_numbers() -> None:
    few = torch.zeros(1000)
    views = {str(number): few.view(10, 100) for number in range(1000)}
    assert most_bytes(views, 10**6) == 8 * 1000 + SPARE
    both = {"half": torch.zeros(10, dtype=torch.half), "double": torch.zeros(20).double()}
    assert most_bytes(both, 10**6) == 8 * 30 + SPARE
    # What is packed, or no weight of a network, makes none large.
    assert most_bytes(both, 20) == 4 * 20 + SPARE
    counters = {"steps": torch.zeros(1000, dtype=torch.uint8)}
    assert most_bytes(both | counters, 10**6) == most_bytes(both, 10**6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float8_e4m3fn], ids=str)
def test_a_file_of_packed_zeros_makes_no_large_network(
    dtype: torch.dtype, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """256 MiB of zeros in 262 kB, and settings of a network of 1.6 GB, or of one that may be."""
    pytest.importorskip("transformers")
    path = tmp_path / "model.pt"
    zeros = torch.zeros((256 << 20) // dtype.itemsize - 4096, dtype=dtype)
    packed(path, {"v": torch.zeros(3), "w": zeros, "classifier.bias": torch.zeros(12)})
    assert path.stat().st_size < MIB
    np.savez(tmp_path / "images.npz", images=np.zeros((10, 3, 32, 32), np.uint8))
    arguments = ["examine", str(path), "--arch", f"hf:{tmp_path}"]
    arguments += ["--images", str(tmp_path / "images.npz")]
    small: dict[str, Any] = {"model_type": "vit", "image_size": 32, "patch_size": 16}
    for wide, layers in ((64, 1), (4096, 2), (2048, 1)):
        wide_by = {"hidden_size": wide, "intermediate_size": 4 * wide, "num_hidden_layers": layers}
        (tmp_path / "config.json").write_text(json.dumps({**small, **wide_by}))
        held = forget_memory()
        assert main(arguments) == 2
        if wide > 64:  # the first imports
            assert highest_memory() - held < 1024 * MIB
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith(f"awm: error: {path}: the weights don't fit into")


def test_numbers_are_counted_before_there_is_memory_for_them() -> None:
    held = forget_memory()
    with pytest.raises(Oversized, match="more than 4000 bytes"):
        build_bounded(lambda: nn.Linear(1 << 14, 1 << 14), 4000)
    assert highest_memory() - held < 64 * MIB
    with pytest.raises(Oversized, match="more than 400 bytes"):
        build_bounded(lambda: nn.BatchNorm1d(40), 400)
    with pytest.raises(Oversized, match="more than 5000 modules"):
        build_bounded(lambda: nn.Sequential(*(nn.ReLU() for _ in range(5001))), 1)
    # What is made afterwards is not counted.
    assert nn.Linear(100, 100).weight.numel() == 10_000


def test_what_can_t_be_made_without_memory_is_bounded_too() -> None:
    def build(size: int) -> nn.Module:
        torch.ones(3).sum().item()
        return nn.Linear(size, 10)

    assert build_bounded(lambda: build(9), 400).weight.device.type == "cpu"
    with pytest.raises(Oversized):
        build_bounded(lambda: build(10), 400)
