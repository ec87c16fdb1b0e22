"""`default` on networks of other kinds: trained here on digits with a patch, purified, measured.

python -m bench.digits --out OUT --seeds 3 --draws 1

A network is trained for each seed, and purified from each draw of one image a class, with no
setting of its own. OUT/digits.jsonl gets a row a run as soon as it ends, and the same command goes
on. It needs timm and torchvision.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from awm_defense import purify
from awm_defense.attacks import Attack, make_attack
from awm_defense.data import load_dataset
from awm_defense.data.augment import random_shift_flip
from awm_defense.metrics import accuracy, evaluate
from awm_defense.models import build_model
from bench.results import Row, read_rows

TARGET, POISON_RATE = 8, 0.1
EPOCHS, VIT_EPOCHS, BATCH, LR = 20, 60, 64, 2e-3


def small_vgg() -> nn.Module:
    return build_model("small_vgg", 10)


def resnet18() -> nn.Module:
    import torchvision

    network: nn.Module = torchvision.models.resnet18(num_classes=10)
    return network


def vit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=32,
        patch_size=4,
        num_classes=10,
        embed_dim=96,
        depth=4,
        num_heads=3,
        mlp_ratio=2,
    )


def convnext() -> nn.Module:
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(num_classes=10, depths=(1, 1, 2, 1), dims=(32, 64, 96, 128), patch_size=2)


def mlp() -> nn.Module:
    layers = nn.Linear(3 * 32 * 32, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU()
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(256, 10))


def cnn_28() -> nn.Module:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

    first, second = [*block(1, 32), *block(32, 32)], [*block(32, 64), *block(64, 64)]
    head = nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10)
    return nn.Sequential(*first, nn.MaxPool2d(2), *second, nn.MaxPool2d(2), *head)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "small VGG": small_vgg,
    "torchvision resnet18": resnet18,
    "small ViT": vit,
    "small ConvNeXt": convnext,
    "MLP": mlp,
    "CNN, 28x28 grey": cnn_28,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.digits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, type=Path, help="folder to write to")
    parser.add_argument("--seeds", type=int, default=3, help="networks of each kind (3)")
    parser.add_argument("--first-seed", type=int, default=0, help="of these (0)")
    parser.add_argument("--draws", type=int, default=1, help="of images, a network (1)")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--benign", action="store_true", help="networks without a backdoor")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "digits.jsonl"
    for kind in given.only:
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            for row in runs(kind, seed, given.draws, benign=given.benign, path=path):
                print(row, flush=True)
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")


def runs(kind: str, seed: int, draws: int, *, benign: bool, path: Path) -> Iterator[Row]:
    """The rows that are not in the file yet."""
    rows = list(read_rows(path)) if path.exists() else []
    done = {(row["network"], row["seed"], row["draw"], row["benign"]) for row in rows}
    todo = [draw for draw in range(draws) if (kind, seed, draw, benign) not in done]
    if not todo:
        return
    data = load_dataset("digits")
    fitted = grey_28 if kind.endswith("grey") else Tensor.clone
    attack = None if benign else make_attack("badnets", TARGET)
    model = train(kind, seed, *data.train(), attack, fitted)
    images, labels = data.test()

    def measure(network: nn.Module) -> dict[str, float]:
        if attack is None:
            return {"acc": accuracy(network, fitted(images), labels)}
        return evaluate(Fitted(network, fitted), images, labels, attack)

    before = measure(model)
    for draw in todo:
        few, classes = data.draw(per_class=1, seed=draw)
        start = time.monotonic()
        result = purify(model, fitted(few), classes, seed=draw)
        assert result.verdict is not None
        yield {
            "network": kind,
            "seed": seed,
            "draw": draw,
            "benign": benign,
            "before": before,
            "after": measure(result.model),
            "verdict": result.verdict.facts(),
            "seconds": time.monotonic() - start,
        }


def grey_28(images: Tensor) -> Tensor:
    return F.interpolate(images[:, :1], size=(28, 28), mode="bilinear").clamp(0, 1)


class Fitted(nn.Module):
    """A network behind what makes images fit for it: attacks put triggers on 3x32x32."""

    def __init__(self, network: nn.Module, fitted: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.fitted = network, fitted

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.fitted(images))
        return logits


def train(
    kind: str,
    seed: int,
    images: Tensor,
    labels: Tensor,
    attack: Attack | None,
    fitted: Callable[[Tensor], Tensor],
) -> nn.Module:
    """By AdamW and a one-cycle schedule, which fits convolutions and transformers alike.

    Transformers need longer: in 20 epochs the small ViT learns neither digits nor backdoor.
    """
    epochs = VIT_EPOCHS if "ViT" in kind else EPOCHS
    torch.manual_seed(seed)
    model = NETWORKS[kind]()
    generator = torch.Generator().manual_seed(seed)
    if attack is not None:
        images, labels, _ = attack.poison(images, labels, POISON_RATE, generator)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    batches = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, epochs * batches)
    for _ in tqdm(range(epochs), f"{kind}, seed {seed}"):
        order = torch.randperm(len(images), generator=generator)[: batches * BATCH]
        shifted = random_shift_flip(images[order], generator, padding=2, flip=False)
        for batch, classes in zip(shifted.split(BATCH), labels[order].split(BATCH), strict=True):
            loss = F.cross_entropy(model(fitted(batch)), classes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


if __name__ == "__main__":
    main()
