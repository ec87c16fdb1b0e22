"""Settings and names that stand for networks many times as large as the weights beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from awm_defense.commands.main import main
from awm_defense.files.checkpoint import Weights, save_model
from awm_defense.models import build_model
from awm_defense.models.bounded import SPARE, Oversized, build_bounded, most_numbers
from awm_defense.models.named import build_named
from tests.hostile.case import forget_memory, highest_memory

from tests.torchvision_ops import torchvision  # isort: skip  # noqa: F401

MIB = 1 << 20


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


def test_many_views_of_few_numbers_are_few_numbers() -> None:
    few = torch.zeros(1000)
    views = {str(number): few.view(10, 100) for number in range(1000)}
    assert most_numbers(Weights(views, Path("net.pth"))) == 2 * 1000 + SPARE
    both = {"half": torch.zeros(10, dtype=torch.half), "double": torch.zeros(20).double()}
    assert most_numbers(both) == 2 * 30 + SPARE


def test_numbers_are_counted_before_there_is_memory_for_them() -> None:
    held = forget_memory()
    with pytest.raises(Oversized, match="more than 1000 numbers"):
        build_bounded(lambda: nn.Linear(1 << 14, 1 << 14), 1000)
    assert highest_memory() - held < 64 * MIB
    with pytest.raises(Oversized, match="more than 100 numbers"):
        build_bounded(lambda: nn.BatchNorm1d(40), 100)
    with pytest.raises(Oversized, match="more than 5000 modules"):
        build_bounded(lambda: nn.Sequential(*(nn.ReLU() for _ in range(5001))), 1)
    # What is made afterwards is not counted.
    assert nn.Linear(100, 100).weight.numel() == 10_000


def test_what_can_t_be_made_without_memory_is_bounded_too() -> None:
    def build(size: int) -> nn.Module:
        torch.ones(3).sum().item()
        return nn.Linear(size, 10)

    assert build_bounded(lambda: build(9), 100).weight.device.type == "cpu"
    with pytest.raises(Oversized):
        build_bounded(lambda: build(10), 100)
