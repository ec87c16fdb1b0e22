"""Images made from a network alone."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from awm_defense import get_recipe, synthesize
from awm_defense.commands.main import main
from awm_defense.commands.purify import make_recipe
from awm_defense.data import Dataset
from awm_defense.files.checkpoint import save_model
from awm_defense.models import build_model
from awm_defense.training.loop import Plan, train
from tests.defense.conftest import tiny_network


@pytest.fixture(scope="module", name="network")
def fixture_network(digits: Dataset) -> nn.Module:
    plan = Plan(epochs=4, batch_size=32, lr=0.05, weight_decay=5e-4)
    return train(tiny_network(), *digits.train(), plan).eval()


def statistics(network: nn.Module, images: Tensor) -> Tensor:
    """Mean and variance of what enters the first BatchNorm layer, per channel."""
    activations = network[0](images)
    return torch.cat(torch.var_mean(activations, dim=(0, 2, 3), correction=0)).detach()


@pytest.mark.slow
def test_images_are_of_their_classes_and_of_the_usual_statistics(network: nn.Module) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images, labels = synthesize(network, (3, 32, 32), classes=10, per_class=3, flip=False)
    assert images.shape == (30, 3, 32, 32) and images.min() >= 0 and images.max() <= 1
    assert labels.tolist() == list(range(10)) * 3
    assert float((network(images).argmax(1) == labels).double().mean()) > 0.9
    usual = torch.cat([network[1].running_var, network[1].running_mean])
    noise = torch.rand(30, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    made, random = (statistics(network, batch).sub(usual).norm() for batch in (images, noise))
    assert made < 0.3 * random
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())


@pytest.mark.slow
def test_they_are_fed_as_the_model_expects(network: nn.Module) -> None:
    """A model of normalised images gets the same images as one of pixels."""

    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, fed: Tensor) -> Tensor:
            logits: Tensor = self.network(fed * 0.25 + 0.5)
            return logits

    options = {"classes": 10, "per_class": 1, "flip": False}
    plain, _ = synthesize(network, (3, 32, 32), **options)
    normalised, _ = synthesize(Normalised().eval(), (3, 32, 32), mean=0.5, std=0.25, **options)
    # Rounding grows over the steps; other images differ by 0.3 on average.
    assert (plain - normalised).abs().mean() < 0.05


def test_errors_name_the_argument(network: nn.Module) -> None:
    with pytest.raises(ValueError, match="mean, std: expected both"):
        synthesize(network, (3, 32, 32), classes=10, mean=0.5)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    with pytest.raises(ValueError, match=r"model: expected BatchNorm2d layers .* got none"):
        synthesize(plain, (3, 32, 32), classes=10)


def test_synthetic_images_have_no_natural_steps_unless_asked_for() -> None:
    default = get_recipe("default")
    assert default.for_images(flip=True) == default
    made = default.for_images(flip=True, synthetic=True)
    assert made == dataclasses.replace(default, natural_step=None) != default
    asked = make_recipe("default", ["natural_step=0.25"], flip=False, synthetic=True)
    assert asked == dataclasses.replace(default, natural_step=0.25, flip=False)


@pytest.mark.slow
def test_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The package has the function under the module's name.
    monkeypatch.setattr(importlib.import_module("awm_defense.synthesis"), "STEPS", 3)
    torch.manual_seed(0)
    save_model(tmp_path / "net.safetensors", build_model("small_vgg", 10))
    given = [str(tmp_path / "net.safetensors"), "--arch", "small_vgg", "--num-classes", "10"]
    quick = ["--set", "examine=false", "--set", "epochs=1", "--set", "inner_epochs=1"]
    out = tmp_path / "out"
    assert main(["purify", *given, *quick, "--per-class", "0", "--out", str(out)]) == 0
    assert "50 synthetic images" in capsys.readouterr().err
    report = json.loads((out / "report.json").read_text())
    assert (report["images"], report["dataset"]) == (50, None)
    assert report["recipe"]["natural_step"] is None
    assert load_file(out / "model.safetensors")
    for wrong, name in (
        ([*given, "--per-class", "0", "--dataset", "digits"], "--dataset"),
        (given, "--dataset"),
        ([given[0], *given, "--per-class", "0"], "CHECKPOINT"),
    ):
        assert main(["purify", *wrong, "--out", str(tmp_path / "other")]) == 2
        assert name in capsys.readouterr().err
