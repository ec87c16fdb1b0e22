"""Pre-activation ResNet-18 (He et al., ECCV 2016) in the form used for 32x32 images."""

import torch.nn.functional as F
from torch import Tensor, nn


class PreActBlock(nn.Module):
    """BatchNorm and ReLU come before each 3x3 convolution, and nothing after the sum.

    Where shapes change the shortcut is a 1x1 convolution, without a BatchNorm, of what the first
    ReLU gives.
    """

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or inputs != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, channels, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        beside = x if self.shortcut is None else self.shortcut(y)
        return self.conv2(F.relu(self.bn2(self.conv1(y)))) + beside


class PreActResNet18(nn.Module):
    """(N,3,H,W) -> (N,num_classes); 11,171,146 parameters for ten classes.

    The keys of its state dict are those of BackdoorBench, which has no BatchNorm at the end.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.layer1 = _stage(64, 64, stride=1)
        self.layer2 = _stage(64, 128, stride=2)
        self.layer3 = _stage(128, 256, stride=2)
        self.layer4 = _stage(256, 512, stride=2)
        self.linear = nn.Linear(512, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(images)))))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


def _stage(inputs: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(PreActBlock(inputs, channels, stride), PreActBlock(channels, channels, 1))
