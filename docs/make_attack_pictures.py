"""Make docs/attacks.png: what each attack's trigger does to an image.

python docs/make_attack_pictures.py docs/attacks.png --clean-model NET/model.safetensors \
    --arch small_vgg --dataset cifar10 --data-dir DATA

NET is what `awm train --attack none` wrote. Without options the network is trained on the digits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from awm_defense.attacks import ATTACKS, clean_label, craft_attack
from awm_defense.data import DATASETS, Dataset, load_dataset
from awm_defense.files.checkpoint import load_into, load_state_dict
from awm_defense.models import MODELS, build_model
from awm_defense.training.loop import Plan, train

TARGET = 0
CRAFT_IMAGES = 128


def main() -> None:
    """Draw three rows (clean, triggered, difference), one column an attack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--clean-model", type=Path)
    parser.add_argument("--arch", choices=sorted(MODELS), default="small_vgg")
    parser.add_argument("--dataset", choices=sorted(DATASETS), default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--image", type=int, default=0, help="which one, of the target class")
    args = parser.parse_args()
    data = load_dataset(args.dataset, args.data_dir)
    model = clean_network(args.arch, args.clean_model, data)
    images, labels = data.train()
    clean = images[labels == TARGET][args.image]
    draw(args.out, clean, triggered_images(clean, images[:CRAFT_IMAGES], model))


def clean_network(arch: str, checkpoint: Path | None, data: Dataset) -> nn.Module:
    """The network to craft triggers with."""
    model = build_model(arch, len(data.classes))
    if checkpoint is None:
        return train(model, *data.train(), Plan(epochs=5, batch_size=32, lr=0.05), progress=True)
    load_into(model, load_state_dict(checkpoint))
    return model.eval()


def triggered_images(clean: Tensor, images: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """The image (3,H,W) under each attack, by the column's title."""
    made = {}
    for name in ATTACKS:
        attack = craft_attack(name, TARGET, images=images, model=model)
        made[name] = attack.apply(clean[None])[0]
    generator = torch.Generator().manual_seed(0)
    perturbed = clean_label.perturb(model, clean[None], TARGET, generator)
    made["clean_label,\nto train on"] = clean_label.corner_patches(perturbed)[0]
    return made


def draw(out: Path, clean: Tensor, triggered: dict[str, Tensor]) -> None:
    """Write the sheet."""
    figure = Figure(figsize=(1.05 * len(triggered), 3.6), layout="constrained")
    axes = figure.subplots(3, len(triggered))
    for column, (name, image) in zip(axes.T, sorted(triggered.items()), strict=True):
        column[0].set_title(name, fontsize=8)
        for panel, shown in zip(column, (clean, image, 10 * (image - clean).abs()), strict=True):
            panel.imshow(shown.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
            panel.set_xticks([])
            panel.set_yticks([])
    for panel, title in zip(axes[:, 0], ("clean", "triggered", "10 × difference"), strict=True):
        panel.set_ylabel(title, fontsize=8)
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    main()
