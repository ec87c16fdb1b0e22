"""The networks: shapes, and the names that published checkpoints use."""

from __future__ import annotations

import pytest
import torch

from awm_defense.models import MODELS, build_model


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
    # The count that papers give for this form.
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962


@pytest.mark.parametrize("name", sorted(MODELS))
def test_can_be_traced(name: str) -> None:
    torch.fx.symbolic_trace(build_model(name, 10))


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"small_vgg, got 'vgg'"):
        build_model("vgg", 10)
    with pytest.raises(ValueError, match=r"num_classes: .* got 0"):
        build_model("small_vgg", 0)
