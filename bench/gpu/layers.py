"""The distinct convolutions of three networks, as their papers and torchvision define them."""

from __future__ import annotations

from typing import NamedTuple


class Layer(NamedTuple):
    inputs: int
    outputs: int
    side: int
    kernel: int
    stride: int = 1
    groups: int = 1

    @property
    def weights(self) -> int:
        return self.outputs * self.inputs // self.groups * self.kernel**2

    def __str__(self) -> str:
        kind = "depthwise " if self.groups > 1 else ""
        return (
            f"{self.inputs}-{self.outputs} {kind}{self.kernel}x{self.kernel}"
            f"{f' stride {self.stride}' if self.stride > 1 else ''} at {self.side}"
        )


def resnet18(side: int = 32) -> list[Layer]:
    """For CIFAR: a 3x3 stem and no pooling; every layer, in order."""
    layers, inputs = [Layer(3, 64, side, 3)], 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers.append(Layer(inputs, width, side, 3, stride))
        if stride > 1:
            layers.append(Layer(inputs, width, side, 1, stride))
        side //= stride
        layers += [Layer(width, width, side, 3)] * 3
        inputs = width
    return layers


def mobilenet_v2(side: int = 32) -> list[Layer]:
    """For CIFAR: strides 1 in the stem and in the first two stages of inverted residuals."""
    layers, inputs = [Layer(3, 32, side, 3)], 32
    plan = (
        (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    )  # fmt: skip
    for expansion, width, count, first in plan:
        for index in range(count):
            stride, hidden = first if index == 0 else 1, expansion * inputs
            if expansion > 1:
                layers.append(Layer(inputs, hidden, side, 1))
            layers.append(Layer(hidden, hidden, side, 3, stride, hidden))
            side //= stride
            layers.append(Layer(hidden, width, side, 1))
            inputs = width
    return [*layers, Layer(inputs, 1280, side, 1)]


def resnet50(side: int = 224) -> list[Layer]:
    """Bottlenecks with the stride in their 3x3 convolution."""
    layers, inputs = [Layer(3, 64, side, 7, 2)], 64
    side //= 4
    for width, count, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(count):
            stride = first if index == 0 else 1
            layers.append(Layer(inputs, width, side, 1))
            layers.append(Layer(width, width, side, 3, stride))
            if index == 0:
                layers.append(Layer(inputs, 4 * width, side, 1, stride))
            side //= stride
            layers.append(Layer(width, 4 * width, side, 1))
            inputs = 4 * width
    return layers


RESNET18 = resnet18()
NETWORKS = {"ResNet-18": RESNET18, "MobileNet V2": mobilenet_v2(), "ResNet-50": resnet50()}


def distinct(layers: list[Layer]) -> list[Layer]:
    return list(dict.fromkeys(layers))
