"""Networks by the names that BackdoorBench (Wu et al., NeurIPS 2022) gives them in its files."""

from torch import nn

from awm_defense.files.text import shown
from awm_defense.models.optional import load_package
from awm_defense.models.preact_resnet import PreActResNet18

# It takes these from torchvision as they are.
TORCHVISION = (
    *("alexnet", "convnext_tiny", "densenet121", "densenet161", "efficientnet_b0"),
    *("efficientnet_b3", "mnasnet1_0", "mobilenet_v2", "mobilenet_v3_large", "resnet18"),
    *("resnet34", "resnet50", "resnext50_32x4d", "shufflenet_v2_x1_0", "squeezenet1_0", "vgg11"),
    *("vgg16", "vgg19", "vgg19_bn", "wide_resnet50_2"),
)
# And before these it enlarges images to 224x224.
ENLARGED = ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32")
NORMALISED = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
NOT_NORMALISED = ("celeba", "gtsrb")
NAMES = ("preactresnet18", *TORCHVISION, *ENLARGED)


def normalisation(data: str | None) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of a channel by which it normalises a data set, or None for none.

    Raises:
        ValueError: for one whose normalisation is not known.
    """
    if data in NORMALISED:
        return NORMALISED[data]
    if data in NOT_NORMALISED:
        return None
    raise ValueError(
        f"it is not known how images of {shown(data or 'its data set')} are normalised"
    )


def build(name: str, num_classes: int | None, grey: bool) -> nn.Module:
    """A network with random weights and the parameter names of BackdoorBench's files.

    Raises:
        ImportError: torchvision is missing, and all but `preactresnet18` need it.
        ValueError: for an unknown name, or grey images.
    """
    if name not in NAMES:
        raise ValueError(
            f"--arch: expected backdoorbench: and one of {', '.join(NAMES)}, got {shown(name)!r}"
        )
    if grey:
        raise ValueError("--grey: BackdoorBench's networks take three channels")
    classes = 10 if num_classes is None else num_classes
    if name == "preactresnet18":
        return PreActResNet18(classes)
    model: nn.Module = load_package("torchvision").models.get_model(
        name, weights=None, num_classes=classes
    )
    if name in ENLARGED:
        # Its Sequential has a transform of torchvision in the first place, without weights.
        return nn.Sequential(nn.Upsample(224, mode="bilinear"), model)
    return model
