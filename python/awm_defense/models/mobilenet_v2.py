"""MobileNet V2 (Sandler et al., CVPR 2018) in the form used for 32x32 images."""

import torch.nn.functional as F
from torch import Tensor, nn


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; with a shortcut where the size stays."""

    def __init__(self, inputs: int, channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = expansion * inputs
        self.conv1 = nn.Conv2d(inputs, wide, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.conv3 = nn.Conv2d(wide, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.same_size = stride == 1
        self.shortcut = nn.Sequential()
        if self.same_size and inputs != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, channels, 1, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return y + self.shortcut(x) if self.same_size else y


class MobileNetV2(nn.Module):
    """(N,3,32,32) -> (N,num_classes); 2,296,922 parameters for ten classes.

    The first two strides of the original are 1 here. The keys of its state dict are those of
    kuangliu/pytorch-cifar, which has a 1x1 convolution in some shortcuts.
    """

    # Expansion, channels, blocks, stride of the first block.
    STAGES = (
        (1, 16, 1, 1),
        (6, 24, 2, 1),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    FEATURES = 1280

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        blocks = []
        inputs = 32
        for expansion, channels, count, first_stride in self.STAGES:
            for stride in (first_stride, *[1] * (count - 1)):
                blocks.append(InvertedResidual(inputs, channels, expansion, stride))
                inputs = channels
        self.layers = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(inputs, self.FEATURES, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(self.FEATURES)
        self.linear = nn.Linear(self.FEATURES, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layers(F.relu(self.bn1(self.conv1(images))))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
