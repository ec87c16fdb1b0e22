"""Wide residual networks (Zagoruyko and Komodakis, BMVC 2016) for 32x32 images."""

import torch.nn.functional as F
from torch import Tensor, nn


class WideBlock(nn.Module):
    """Two 3x3 convolutions, a BatchNorm and a ReLU before each; where the width changes, a 1x1
    convolution beside them of what the first ReLU gives."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.convShortcut: nn.Conv2d | None = None
        if inputs != channels:
            self.convShortcut = nn.Conv2d(inputs, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        beside = x if self.convShortcut is None else self.convShortcut(y)
        return self.conv2(F.relu(self.bn2(self.conv1(y)))) + beside


class Stage(nn.Module):
    """Blocks of one width, of which the first may change it."""

    def __init__(self, count: int, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        rest = [WideBlock(channels, channels, 1) for _ in range(count - 1)]
        self.layer = nn.Sequential(WideBlock(inputs, channels, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """(N,3,H,W) -> (N,num_classes), without dropout.

    For ten classes 175,066 parameters of depth 16 and width 1, 36,479,194 parameters of 28 and 10.

    The keys of its state dict are those of the networks of NAD (Li et al., ICLR 2021).
    """

    def __init__(self, depth: int, width: int, num_classes: int) -> None:
        super().__init__()
        count = (depth - 4) // 6
        channels = [16 * width * factor for factor in (1, 2, 4)]
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = Stage(count, 16, channels[0], 1)
        self.block2 = Stage(count, channels[0], channels[1], 2)
        self.block3 = Stage(count, channels[1], channels[2], 2)
        self.bn1 = nn.BatchNorm2d(channels[2])
        self.fc = nn.Linear(channels[2], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(images))))
        return self.fc(F.adaptive_avg_pool2d(F.relu(self.bn1(x)), 1).flatten(1))
