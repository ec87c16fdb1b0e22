"""Networks to attack and to defend, for RGB images (N,3,32,32) in [0,1]; ResNet-50 for larger."""

from collections.abc import Callable
from functools import partial

from torch import nn

from awm_defense.lookup import look_up
from awm_defense.models.mobilenet_v2 import MobileNetV2
from awm_defense.models.preact_resnet import PreActResNet18
from awm_defense.models.resnet import ResNet18
from awm_defense.models.resnet50 import ResNet50
from awm_defense.models.shufflenet_v2 import ShuffleNetV2
from awm_defense.models.small_vgg import SmallVGG
from awm_defense.models.wide_resnet import WideResNet

__all__ = [
    "MODELS",
    "MobileNetV2",
    "PreActResNet18",
    "ResNet18",
    "ResNet50",
    "ShuffleNetV2",
    "SmallVGG",
    "WideResNet",
    "build_model",
]

MODELS: dict[str, Callable[[int], nn.Module]] = {
    "mobilenet_v2": MobileNetV2,
    "preactresnet18": PreActResNet18,
    "resnet18": ResNet18,
    "resnet50": ResNet50,
    "shufflenet_v2": ShuffleNetV2,
    "small_vgg": SmallVGG,
    "wrn_16_1": partial(WideResNet, 16, 1),
    "wrn_28_10": partial(WideResNet, 28, 10),
}


def build_model(name: str, num_classes: int) -> nn.Module:
    """A new network with random weights (from PyTorch's global generator), in training mode.

    Args:
        name: a key of `MODELS`.
        num_classes: number of outputs, at least 1.

    Raises:
        ValueError: for an unknown name or a number of classes below 1.
    """
    architecture = look_up("name", name, MODELS)
    if num_classes < 1:
        raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
    return architecture(num_classes)
