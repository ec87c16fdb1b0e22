"""Fine-tuning; pruning before it is Fine-Pruning (Liu et al., RAID 2018, arXiv:1805.12185)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from awm_defense.baselines.baseline import EVALUATION_BATCH, Baseline, Erased, Task
from awm_defense.training.loop import Plan, train


@dataclass(frozen=True)
class FineTune(Baseline):
    """Train on the images at hand; of a small step size, and few images, gently."""

    least: ClassVar[dict[str, float]] = {
        **dict.fromkeys(("epochs", "batch_size"), 1),
        **dict.fromkeys(("lr", "weight_decay", "crop_padding"), 0),
    }
    epochs: int = 20
    batch_size: int = 128
    lr: float = 0.01
    weight_decay: float = 5e-4
    crop_padding: int = 4
    flip: bool = True
    prune: bool = False
    """Whether channels of the last convolution that the images leave dormant are pruned first."""
    max_drop: float = 4.0
    """Points of accuracy on the images at hand that pruning may cost."""

    def erase(self, task: Task) -> Erased:
        """Prune if asked to, then fine-tune."""
        if self.prune:
            _prune_dormant(task, self.max_drop)
        plan = Plan(
            epochs=self.epochs,
            batch_size=min(self.batch_size, len(task.images)),
            lr=self.lr,
            weight_decay=self.weight_decay,
            label_smoothing=0.0,
            crop_padding=self.crop_padding,
            flip=self.flip,
            seed=task.generator.initial_seed(),
        )
        history: list[dict[str, float]] = []

        def measure(network: nn.Module) -> dict[str, float]:
            found = {"accuracy": task.accuracy(task.model)}
            history.append({"epoch": float(len(history)), **found})
            return found

        task.model.requires_grad_(True)
        train(
            task.classifier(),
            task.images,
            task.labels,
            plan,
            compute=task.compute,
            device=task.images.device,
            measure=measure,
            progress=task.progress,
        )
        task.model.requires_grad_(False)
        return Erased(history)


@torch.no_grad()
def _prune_dormant(task: Task, max_drop: float) -> None:
    """Cut off what the last linear layer reads of the last convolution's least active channels."""
    convolutions = [m for m in task.model.modules() if isinstance(m, nn.Conv2d)]
    linears = [m for m in task.model.modules() if isinstance(m, nn.Linear)]
    if not convolutions or not linears:
        raise ValueError("model: expected convolutions and a linear layer to prune between")
    channels, reader = convolutions[-1].out_channels, linears[-1]
    if reader.in_features % channels:
        raise ValueError(
            f"model: expected the last linear layer to read the {channels} channels of the last "
            f"convolution, got {reader.in_features} inputs"
        )
    read: list[Tensor] = []
    hook = reader.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].float()))
    for images in task.images.split(EVALUATION_BATCH):
        task.logits(task.model, images)
    hook.remove()
    features = torch.cat(read)
    order = features.unflatten(1, (channels, -1)).mean((0, 2)).argsort()
    columns = reader.weight.unflatten(1, (channels, -1))

    def accuracy() -> float:
        return 100 * float((reader(features).argmax(1) == task.labels).double().mean())

    allowed = accuracy() - max_drop
    pruned = 0
    for channel in order[:-1]:
        before = columns[:, channel].clone()
        columns[:, channel] = 0
        if accuracy() < allowed:
            columns[:, channel] = before
            break
        pruned += 1
    task.notes.append(f"{pruned} of {channels} channels are pruned")
