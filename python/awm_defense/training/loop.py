"""Training of networks; a backdoor comes with the data (`Attack.poison`)."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from awm_defense.data.augment import random_shift_flip
from awm_defense.files.atomic import write_bytes
from awm_defense.files.checkpoint import load_into, load_saved
from awm_defense.files.text import PATH, sentence, shown
from awm_defense.settings import check_fields
from awm_defense.working.compute import Compute
from awm_defense.working.memory import keep_freed_memory

Model = TypeVar("Model", bound=nn.Module)

# Between the random numbers of one seed and of the next, more than there are epochs. PyTorch takes
# seeds of 64 bits.
SEEDS_APART = 100_000

LEAST: dict[str, float] = {
    **dict.fromkeys(("epochs", "batch_size"), 1),
    **dict.fromkeys(("lr", "warmup", "momentum", "weight_decay", "label_smoothing"), 0),
    "crop_padding": 0,
}


@dataclass(frozen=True)
class Plan:
    """Hyper-parameters of training: SGD with Nesterov momentum, one cycle of learning rates.

    Attributes:
        epochs: passes over the images.
        batch_size: images a step; the last, smaller batch of an epoch is left out unless it is
            the only one.
        lr: the highest learning rate; reached linearly, left along a cosine.
        warmup: share of all steps until then.
        momentum, weight_decay, label_smoothing: as everywhere.
        crop_padding, flip: see `random_shift_flip`.
        seed: the same seed, network, machine and `Compute` give the same result.
    """

    epochs: int = 20
    batch_size: int = 256
    lr: float = 0.1
    warmup: float = 0.25
    momentum: float = 0.9
    weight_decay: float = 2e-4
    label_smoothing: float = 0.0
    crop_padding: int = 0
    flip: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, LEAST)
        if self.label_smoothing > 1:
            raise ValueError(f"label_smoothing: expected at most 1, got {self.label_smoothing}")
        if self.momentum == 0:
            raise ValueError("momentum: expected a number > 0, as Nesterov's is, got 0")
        least, most = (limit // SEEDS_APART for limit in (-(2**63), 2**63))
        if not least < self.seed < most:
            raise ValueError(
                f"seed: expected a whole number from {least + 1} to {most - 1} for training, "
                f"got {self.seed}"
            )

    def learning_rate(self, step: int, steps: int) -> float:
        """Of one step (from 0) of all `steps`."""
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            return self.lr * (step + 1) / rising
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


@keep_freed_memory()
def train(
    model: Model,
    images: Tensor,
    labels: Tensor,
    plan: Plan,
    *,
    compute: Compute | None = None,
    device: torch.device | str | None = None,
    checkpoint: Path | None = None,
    measure: Callable[[nn.Module], dict[str, float]] | None = None,
    redraw: Callable[[int], tuple[Tensor, Tensor]] | None = None,
    progress: bool = False,
) -> Model:
    """Train a network. Everything random in an epoch depends on the seed and its number alone.

    Args:
        model: takes (N,3,H,W) in [0,1], returns logits; trained in place.
        images: (N,3,H,W), uint8 or floating point in [0,1]; all are kept on the device, where
            they are augmented, too.
        labels: (N,) int64.
        plan: the hyper-parameters.
        compute: arithmetic and layout; by default float32, channels_last.
        device: where to train; the model stays there. By default the CPU.
        checkpoint: file to continue from where it exists, and to write after every epoch.
        measure: called after every epoch with the model in eval mode; what it returns is shown.
        redraw: the images and labels of an epoch (from 0), where each has its own; as many, and of
            the same shape.
        progress: show a bar.

    Returns:
        The model, in eval mode. PyTorch's global generators are left as they were.

    Raises:
        ValueError: when sizes don't match, the loss is no longer finite, or `checkpoint` is of
            another training.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise ValueError(
            "images and labels: expected as many of each, at least one, "
            f"got {len(images)} and {len(labels)}"
        )
    compute = compute or Compute()
    place = torch.device("cpu" if device is None else device)
    images, labels = images.to(place), labels.to(place)
    compute.prepare(model, place)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=plan.lr,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
        nesterov=True,
    )
    steps = max(1, len(images) // plan.batch_size)
    begun = _resume(checkpoint, model, optimizer, plan)
    if begun and progress:
        tqdm.write(f"going on after epoch {begun} of {plan.epochs}", sys.stderr)
    bar = tqdm(
        total=plan.epochs * steps,
        initial=begun * steps,
        desc="training",
        unit="step",
        disable=not progress,
    )
    with bar, torch.random.fork_rng([place] if place.type == "cuda" else []):
        for epoch in range(begun, plan.epochs):
            generator = torch.Generator().manual_seed(plan.seed * SEEDS_APART + epoch)
            torch.manual_seed(plan.seed * SEEDS_APART + epoch)  # dropout draws from the global one
            if redraw is not None:
                images, labels = (drawn.to(place) for drawn in redraw(epoch))
            order = torch.randperm(len(images), generator=generator).to(place)
            augmented = random_shift_flip(
                images[order], generator, padding=plan.crop_padding, flip=plan.flip
            )
            model.train()
            total = torch.zeros((), device=place)
            for step in range(steps):
                for group in optimizer.param_groups:
                    group["lr"] = plan.learning_rate(epoch * steps + step, plan.epochs * steps)
                part = slice(step * plan.batch_size, (step + 1) * plan.batch_size)
                loss = _loss(model, augmented[part], labels[order[part]], plan, compute)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach()
                bar.update()
            mean = total.item() / steps
            if not math.isfinite(mean):
                raise ValueError(f"lr: with {plan.lr} the loss became {mean} in epoch {epoch + 1}")
            found = measure(model.eval()) if measure else {}
            bar.set_postfix({"epoch": epoch + 1, "loss": mean, **found})
            if checkpoint is not None:
                _save(checkpoint, model, optimizer, epoch + 1)
    Compute(channels_last=False).prepare(model, place)
    return model.eval()


def _loss(model: nn.Module, batch: Tensor, labels: Tensor, plan: Plan, compute: Compute) -> Tensor:
    batch = batch.float() / 255 if batch.dtype == torch.uint8 else batch
    with compute.autocast(batch.device):
        logits = model(batch.contiguous(memory_format=compute.memory_format))
    return F.cross_entropy(logits.float(), labels, label_smoothing=plan.label_smoothing)


def _save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    """Replace the file in one step: a kill leaves the old one or the new one."""
    state = {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    buffer = BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def _resume(
    path: Path | None, model: nn.Module, optimizer: torch.optim.Optimizer, plan: Plan
) -> int:
    """Load the checkpoint if there is one; returns how many epochs are done."""
    if path is None or not path.exists():
        return 0
    state = load_saved(path)
    try:
        epoch: int = state["epoch"]
        if type(epoch) is not int or not 1 <= epoch <= plan.epochs:
            raise ValueError(f"expected an epoch from 1 to {plan.epochs}, got {shown(epoch)}")
        _load_momentum(optimizer, state["optimizer"])
        load_into(model, state["model"])
    except Exception as error:  # what was meant for another network can fail in any way
        raise ValueError(
            f"{shown(path, PATH)}: expected the state of this network's training, {sentence(error)}"
        ) from error
    return epoch


def _load_momentum(optimizer: torch.optim.Optimizer, saved: Any) -> None:
    """Copy the momentum of each parameter; all else must be as the plan has made it.

    `load_state_dict` would take whatever stands there.
    """
    (own,) = optimizer.state_dict()["param_groups"]
    (group,) = saved["param_groups"]
    # Each step sets its own learning rate.
    for name, value in own.items():
        if name != "lr" and group.get(name) != value:
            raise ValueError(f"{name}: expected {value}, got {shown(group.get(name))}")
    parameters = optimizer.param_groups[0]["params"]
    for number, content in saved["state"].items():
        parameter, momentum = parameters[number], content["momentum_buffer"]
        if not isinstance(momentum, Tensor):
            raise ValueError(f"momentum {number}: expected a tensor, got {shown(momentum)}")
        if momentum.shape != parameter.shape or momentum.dtype != parameter.dtype:
            raise ValueError(
                f"momentum {number}: expected {parameter.dtype} of shape {tuple(parameter.shape)}, "
                f"got {momentum.dtype} of shape {tuple(momentum.shape)}"
            )
        if not momentum.isfinite().all():
            raise ValueError(f"momentum {number}: expected finite numbers")
        # With memory of its own, laid out as the parameter's.
        optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
