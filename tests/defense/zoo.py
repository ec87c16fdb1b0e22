"""Tiny networks of the families that people download, for 3 classes and images of 3x32x32."""

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.torchvision_ops import torchvision  # isort: skip
import timm
import torch
import transformers
from torch import Tensor, nn

vision = torchvision.models
CLASSES = 3


def from_timm(name: str, **options: Any) -> nn.Module:
    """A network of timm's, smaller than the name says."""
    return timm.create_model(name, num_classes=CLASSES, **options)


def from_hf(kind: str, **options: Any) -> nn.Module:
    """A classifier of transformers', whose output is a `ModelOutput`."""
    config = getattr(transformers, f"{kind}Config")(num_labels=CLASSES, **options)
    made: nn.Module = getattr(transformers, f"{kind}ForImageClassification")(config)
    return made


VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
HF = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
}
CONVNEXT = [vision.convnext.CNBlockConfig(*shape) for shape in ((16, 32, 1), (32, None, 1))]

ZOO: dict[str, Callable[[], nn.Module]] = {
    "torchvision ResNet": partial(
        vision.ResNet, vision.resnet.BasicBlock, [1, 1, 1, 1], num_classes=CLASSES
    ),
    "torchvision DenseNet": partial(
        vision.DenseNet, 4, (2, 2), num_init_features=8, num_classes=CLASSES
    ),
    "torchvision ShuffleNet": partial(
        vision.ShuffleNetV2, [1, 1, 1], [8, 16, 32, 64, 128], num_classes=CLASSES
    ),
    "torchvision SqueezeNet": partial(vision.SqueezeNet, "1_1", num_classes=CLASSES),
    "torchvision ConvNeXt": partial(vision.ConvNeXt, CONVNEXT, num_classes=CLASSES),
    "torchvision ViT": partial(vision.VisionTransformer, 32, 8, 2, 2, 48, 96, num_classes=CLASSES),
    "torchvision Swin": partial(
        vision.SwinTransformer, [4, 4], 16, [1, 1], [1, 2], [4, 4], num_classes=CLASSES
    ),
    "timm ResNet": partial(from_timm, "resnet10t"),
    "timm BiT": partial(
        timm.models.resnetv2.ResNetV2,
        (1, 1, 1, 1),
        (128, 128, 128, 128),
        conv_layer=timm.layers.std_conv.StdConv2d,
        num_classes=CLASSES,
    ),
    "timm NFNet": partial(
        timm.models.nfnet.NormFreeNet,
        timm.models.nfnet.NfCfg((1, 1, 1, 1), (16, 32, 32, 64), attn_layer=None),
        num_classes=CLASSES,
    ),
    "timm EfficientNet": partial(from_timm, "tinynet_e"),
    "timm MobileNetV3": partial(from_timm, "mobilenetv3_small_050"),
    "timm RegNet": partial(from_timm, "regnetx_002"),
    "timm GhostNet": partial(from_timm, "ghostnet_050"),
    "timm ConvNeXt": partial(from_timm, "convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 16, 32)),
    "timm EdgeNeXt": partial(from_timm, "edgenext_xx_small"),
    "timm ViT": partial(from_timm, "vit_tiny_patch16_224", **VIT),
    "timm DeiT": partial(from_timm, "deit_tiny_distilled_patch16_224", **VIT),
    "timm BEiT": partial(from_timm, "beit_base_patch16_224", **VIT),
    "timm EVA": partial(from_timm, "eva02_tiny_patch14_224", **VIT),
    "timm CaiT": partial(from_timm, "cait_xxs24_224", **VIT),
    "timm XCiT": partial(from_timm, "xcit_nano_12_p16_224", **VIT),
    "timm Swin": partial(
        from_timm,
        "swin_tiny_patch4_window7_224",
        img_size=32,
        window_size=4,
        embed_dim=24,
        depths=(1, 1),
        num_heads=(1, 2),
    ),
    "timm Mixer": partial(
        timm.models.mlp_mixer.MlpMixer,
        img_size=32,
        patch_size=8,
        embed_dim=48,
        num_blocks=2,
        num_classes=CLASSES,
    ),
    "timm PoolFormer": partial(
        timm.models.metaformer.MetaFormer,
        depths=(1, 1, 1, 1),
        dims=(8, 16, 16, 32),
        num_classes=CLASSES,
    ),
    "timm LeViT": partial(
        from_timm, "levit_128s", img_size=32, embed_dim=(32, 48, 64), depth=(1, 1, 1)
    ),
    "timm CoAtNet": partial(from_timm, "coatnet_nano_rw_224", img_size=32),
    "HF ViT": partial(from_hf, "ViT", **HF),
    "HF DeiT": partial(from_hf, "DeiT", **HF),
    "HF BEiT": partial(from_hf, "Beit", **HF),
    "HF ConvNeXt": partial(from_hf, "ConvNext", num_stages=2, hidden_sizes=[16, 32], depths=[1, 1]),
    "HF ResNet": partial(
        from_hf, "ResNet", embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1]
    ),
    "HF Swin": partial(
        from_hf,
        "Swin",
        image_size=32,
        patch_size=4,
        embed_dim=24,
        depths=[1, 1],
        num_heads=[1, 2],
        window_size=4,
    ),
}


def make(name: str) -> nn.Module:
    """A network of the zoo, always the same, in training mode; nothing in it starts from zero, as
    some heads and the scales of residual branches do."""
    torch.manual_seed(0)
    model = ZOO[name]().train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and not parameter.any():
                parameter.normal_(std=0.1)
            elif 0 < parameter.abs().max() < 1e-3:
                parameter.fill_(0.5)
    return model


def images() -> tuple[Tensor, Tensor]:
    """Two images of each class, in [0, 1], and their labels."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2 * CLASSES, 3, 32, 32, generator=generator), torch.arange(6) % CLASSES
