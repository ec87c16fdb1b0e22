"""ShuffleNet V2 (Ma et al., ECCV 2018) at width 0.5, in the form used for 32x32 images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Half of the channels pass, the other half goes through three convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        halves = x.chunk(2, dim=1)
        y = F.relu(self.bn1(self.conv1(halves[1])))
        y = F.relu(self.bn3(self.conv3(self.bn2(self.conv2(y)))))
        return _shuffle(torch.cat((halves[0], y), dim=1))


class DownBlock(nn.Module):
    """Two branches of stride 2, each of which gives half of the new channels."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(inputs, inputs, 3, 2, padding=1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = nn.Conv2d(inputs, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(inputs, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = F.relu(self.bn3(self.conv3(x)))
        right = F.relu(self.bn5(self.conv5(self.bn4(self.conv4(right)))))
        return _shuffle(torch.cat((left, right), dim=1))


class ShuffleNetV2(nn.Module):
    """(N,3,32,32) -> (N,num_classes); 352,042 parameters for ten classes.

    The stem has stride 1 and no pooling after it. The keys of its state dict are those of
    kuangliu/pytorch-cifar.
    """

    # Channels of each stage, and the blocks that follow the one of stride 2.
    STAGES = ((48, 3), (96, 7), (192, 3))
    FEATURES = 1024

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        stages = []
        inputs = 24
        for channels, blocks in self.STAGES:
            same = [BasicBlock(channels) for _ in range(blocks)]
            stages.append(nn.Sequential(DownBlock(inputs, channels), *same))
            inputs = channels
        self.layer1, self.layer2, self.layer3 = stages
        self.conv2 = nn.Conv2d(inputs, self.FEATURES, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(self.FEATURES)
        self.linear = nn.Linear(self.FEATURES, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


def _shuffle(x: Tensor) -> Tensor:
    """Interleave the channels of the two halves."""
    return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
