"""The small VGG of the networks that came with I-BAU (Zeng et al., ICLR 2022)."""

from torch import Tensor, nn


class SmallVGG(nn.Module):
    """Six 3x3 convolutions in three stages, one linear layer: (N,3,32,32) -> (N,num_classes).

    308,394 parameters for ten classes. The keys of its state dict are those of the published
    checkpoints.
    """

    # Channels and dropout of each stage: two convolutions, then pooling by two.
    STAGES = ((32, 0.3), (64, 0.4), (128, 0.4))

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for channels, dropout in self.STAGES:
            for _ in range(2):
                layers += [
                    nn.Conv2d(inputs, channels, 3, padding=1),
                    nn.BatchNorm2d(channels),
                    nn.ELU(),
                ]
                inputs = channels
            layers += [nn.MaxPool2d(2), nn.Dropout(dropout)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs * 4 * 4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))
