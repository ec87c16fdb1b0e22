"""The networks: shapes, and the names that published checkpoints use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from awm_defense.files.checkpoint import load_into, load_state_dict
from awm_defense.models import MODELS, build_model
from awm_defense.models.named import build_named
from awm_defense.models.preact_resnet import PreActResNet18
from awm_defense.models.shufflenet_v2 import _shuffle

from tests.torchvision_ops import torchvision  # noqa: F401  # isort: skip

# A folder with the published networks: checkpoints/*.pth, triggers/*.png.
PUBLISHED = os.environ.get("AWM_PUBLISHED_DIR")


@pytest.mark.parametrize("name", sorted(MODELS))
def test_maps_images_to_logits(name: str) -> None:
    model = build_model(name, 7).eval()
    with torch.no_grad():
        assert model(torch.rand(2, 3, 32, 32)).shape == (2, 7)


def test_small_vgg_has_the_names_and_shapes_of_the_published_checkpoints() -> None:
    expected = {"classifier.weight": (10, 2048), "classifier.bias": (10,)}
    convolutions = {
        0: (32, 3),
        3: (32, 32),
        8: (64, 32),
        11: (64, 64),
        16: (128, 64),
        19: (128,) * 2,
    }
    for index, (outputs, inputs) in convolutions.items():
        expected[f"features.{index}.weight"] = (outputs, inputs, 3, 3)
        expected[f"features.{index}.bias"] = (outputs,)
        for name in ("weight", "bias", "running_mean", "running_var"):
            expected[f"features.{index + 1}.{name}"] = (outputs,)
        expected[f"features.{index + 1}.num_batches_tracked"] = ()
    state = build_model("small_vgg", 10).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == expected


def test_resnet18_is_the_cifar_form() -> None:
    model = build_model("resnet18", 10)
    state = model.state_dict()
    assert state["conv1.weight"].shape == (64, 3, 3, 3)
    assert state["layer2.0.shortcut.0.weight"].shape == (128, 64, 1, 1)
    assert state["layer4.1.conv2.weight"].shape == (512, 512, 3, 3)
    assert state["linear.weight"].shape == (10, 512)


NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def test_preactresnet18_has_the_names_and_shapes_of_backdoorbench() -> None:
    def normalised(name: str, channels: int) -> None:
        expected.update({f"{name}.{part}": (channels,) for part in NORM[:-1]})
        expected[f"{name}.{NORM[-1]}"] = ()

    expected: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 3, 3)}
    inputs = 64
    for stage, channels in enumerate((64, 128, 256, 512), 1):
        for number in range(2):
            block = f"layer{stage}.{number}"
            normalised(f"{block}.bn1", inputs)
            expected[f"{block}.conv1.weight"] = (channels, inputs, 3, 3)
            normalised(f"{block}.bn2", channels)
            expected[f"{block}.conv2.weight"] = (channels, channels, 3, 3)
            if inputs != channels:
                expected[f"{block}.shortcut.0.weight"] = (channels, inputs, 1, 1)
            inputs = channels
    expected |= {"linear.weight": (10, 512), "linear.bias": (10,)}
    state = build_model("preactresnet18", 10).state_dict()
    assert list(expected) == list(state)  # BackdoorBench goes by the order where names differ
    assert {name: tuple(value.shape) for name, value in state.items()} == expected


@pytest.mark.parametrize(
    ("name", "features", "parameters", "last"),
    [
        # As torchvision's pages count, of 1000 classes.
        ("convnext_tiny", 768, 28_589_128, "classifier.2.bias"),
        ("densenet161", 2208, 28_681_000, "classifier.bias"),
        ("efficientnet_b3", 1536, 12_233_232, "classifier.1.bias"),
        ("mobilenet_v3_large", 1280, 5_483_032, "classifier.3.bias"),
        ("vgg19_bn", 4096, 143_678_248, "classifier.6.bias"),
        ("vit_b_16", 768, 86_567_656, "1.heads.head.bias"),
    ],
)
def test_backdoorbench_s_networks_of_torchvision(
    name: str, features: int, parameters: int, last: str
) -> None:
    with torch.device("meta"):
        model = build_named(f"backdoorbench:{name}", 10)
    found = sum(parameter.numel() for parameter in model.parameters())
    assert found == parameters - 990 * (features + 1)
    assert list(model.state_dict())[-1] == last
    if name == "vit_b_16":
        assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)


def test_backdoorbench_s_names() -> None:
    assert isinstance(build_named("backdoorbench:preactresnet18", 3), PreActResNet18)
    # Its ResNet-18 is torchvision's.
    with torch.device("meta"):
        assert "fc.weight" in build_named("backdoorbench:resnet18").state_dict()
    for name in ("senet18", "inception_v3", "\x1b[2J"):
        with pytest.raises(ValueError, match="--arch: expected backdoorbench: and one of preact"):
            build_named(f"backdoorbench:{name}")


def test_mobilenet_v2_is_the_cifar_form() -> None:
    state = build_model("mobilenet_v2", 10).state_dict()
    shapes = {
        "conv1.weight": (32, 3, 3, 3),
        "layers.0.conv2.weight": (32, 1, 3, 3),
        "layers.0.shortcut.0.weight": (16, 32, 1, 1),
        "layers.2.conv1.weight": (144, 24, 1, 1),
        "layers.16.conv3.weight": (320, 960, 1, 1),
        "conv2.weight": (1280, 320, 1, 1),
        "bn2.running_var": (1280,),
        "linear.weight": (10, 1280),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert "layers.16.shortcut.1.bias" in state
    assert not any(name.startswith("layers.17") for name in state)


def test_shufflenet_v2_is_the_cifar_form() -> None:
    state = build_model("shufflenet_v2", 10).state_dict()
    shapes = {
        "conv1.weight": (24, 3, 3, 3),
        "layer1.0.conv1.weight": (24, 1, 3, 3),
        "layer1.0.conv5.weight": (24, 24, 1, 1),
        "layer2.7.conv2.weight": (48, 1, 3, 3),
        "layer3.3.conv3.weight": (96, 96, 1, 1),
        "conv2.weight": (1024, 192, 1, 1),
        "linear.weight": (10, 1024),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert not any(name.startswith(("layer1.4", "layer2.8", "layer3.4")) for name in state)


def test_shufflenet_v2_mixes_both_halves() -> None:
    # Channel i of the first half goes to 2i, of the second half to 2i+1.
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert _shuffle(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # As papers and the published code count.
        ("mobilenet_v2", 2_296_922),
        ("preactresnet18", 11_171_146),
        ("resnet18", 11_173_962),
        ("resnet50", 25_557_032 - 990 * 2049),
        ("shufflenet_v2", 352_042),
        ("wrn_16_1", 175_066),
        ("wrn_28_10", 36_479_194),
        # As the published checkpoints hold.
        ("small_vgg", 308_394),
    ],
)
def test_parameter_counts(name: str, count: int) -> None:
    model = build_model(name, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert f"{count:,} parameters" in (type(model).__doc__ or "")


@pytest.mark.skipif(PUBLISHED is None, reason="$AWM_PUBLISHED_DIR names no folder")
@pytest.mark.parametrize("classes", [10, 43])
def test_published_checkpoints(classes: int) -> None:
    found = sorted((Path(PUBLISHED) / "checkpoints").glob("*.pth"))
    found = [path for path in found if path.name.startswith("gtsrb") == (classes == 43)]
    assert found
    for path in found:
        load_into(build_model("small_vgg", classes), load_state_dict(path))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_can_be_traced(name: str) -> None:
    torch.fx.symbolic_trace(build_model(name, 10))


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"small_vgg, wrn_16_1, wrn_28_10, got 'vgg'"):
        build_model("vgg", 10)
    with pytest.raises(ValueError, match=r"num_classes: .* got 0"):
        build_model("small_vgg", 0)
