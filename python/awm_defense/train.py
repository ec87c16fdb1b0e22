"""Training of networks, with a backdoor or without."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from awm_defense.attacks import Attack
from awm_defense.data.augment import random_resized_crop_flip

Model = TypeVar("Model", bound=nn.Module)

# The smallest crop that augmentation cuts out, as a share of the image.
SMALLEST_CROP = 0.5


def train_backdoored(
    model: Model,
    images: Tensor,
    labels: Tensor,
    attack: Attack | None,
    *,
    poison_rate: float = 0.1,
    epochs: int = 12,
    lr: float = 0.05,
    batch_size: int = 32,
    augment: bool = False,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Model:
    """Train a network on partly poisoned data: SGD with Nesterov momentum, one cycle of rates.

    Args:
        model: takes (N,3,H,W) in [0,1], returns logits; trained in place.
        images: (N,3,H,W) in [0,1]; stay where they are, batches are moved.
        labels: (N,) int64.
        attack: whose trigger to plant; None for a benign network.
        poison_rate: share of the images that get the trigger and the target's label.
        epochs: passes over the images.
        lr: the highest learning rate of the cycle.
        batch_size: images per step; the last, smaller batch of an epoch is left out unless it is
            the only one.
        augment: random resized crops and flips, before the trigger is put on. For photographs,
            not for digits, which don't look alike when mirrored.
        seed: the same seed, network and machine give the same result. PyTorch's global generators
            are left as they were.
        device: where to train; the model stays there. By default the CPU.
        progress: show a bar.

    Returns:
        The model, in eval mode.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise ValueError(
            "images and labels: expected as many of each, at least one, "
            f"got {len(images)} and {len(labels)}"
        )
    if epochs < 1 or batch_size < 1:
        raise ValueError(
            f"epochs and batch_size: expected at least 1, got {epochs} and {batch_size}"
        )
    place = torch.device("cpu" if device is None else device)
    generator = torch.Generator().manual_seed(seed)
    targets = labels.cpu().clone()
    poisoned = torch.zeros(len(labels), dtype=torch.bool)
    if attack is not None:
        poisoned[attack.choose(labels, poison_rate, generator)] = True
        targets[poisoned] = attack.target

    model.to(place).train()
    steps = max(1, len(images) // batch_size)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * steps)
    # Dropout draws from the global generators.
    with torch.random.fork_rng([place] if place.type == "cuda" else []):
        torch.manual_seed(seed)
        bar = tqdm(range(epochs), "training", unit="epoch", disable=not progress)
        for _ in bar:
            order = torch.randperm(len(images), generator=generator)
            total = torch.zeros((), device=place)
            for indices in order.split(batch_size)[:steps]:
                batch = images[indices].to(place)
                if augment:
                    batch = random_resized_crop_flip(batch, generator, scale=(SMALLEST_CROP, 1.0))
                if attack is not None:
                    with_trigger = poisoned[indices]
                    batch[with_trigger] = attack.apply(batch[with_trigger])
                # The layout that convolutions are fastest in.
                logits = model(batch.contiguous(memory_format=torch.channels_last))
                loss = F.cross_entropy(logits, targets[indices].to(place))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.detach()
            bar.set_postfix(loss=f"{total.item() / steps:.3f}")
    return model.eval()
