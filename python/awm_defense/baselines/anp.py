"""Adversarial Neuron Pruning (Wu & Wang, NeurIPS 2021, arXiv:2110.14430).

Neurons that matter to a backdoor are those whose perturbation misleads the network; masks learn
to do without them. With masks and noise on every weight instead of every neuron it is the AWM
paper's Eq. 4.1 ("ANP + SWM").
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from awm_defense.baselines.baseline import Augment, Baseline, Erased, Task

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
THRESHOLDS = [0.05 * i for i in range(19)]
HISTORY = 20
"""Entries, of as many equal parts of all steps."""


@dataclass(frozen=True)
class Anp(Baseline):
    """Defaults are those of the authors' released code, for ResNet-18s, but for `clip_noise`."""

    least: ClassVar[dict[str, float]] = {
        "batch_size": 1,
        **dict.fromkeys(("steps", "noise_steps", "crop_padding"), 0),
        **dict.fromkeys(("eps", "alpha", "mask_lr", "threshold"), 0),
    }
    units: Literal["neurons", "weights"] = "neurons"
    """What has a mask: a channel's scale in BatchNorm, or each weight of the convolutions."""
    steps: int = 2000
    batch_size: int = 128
    eps: float = 0.4
    """ε, how far a factor may be perturbed."""
    noise_steps: int = 1
    """Sign-gradient steps that look for the perturbation."""
    clip_noise: bool = True
    """Whether noise stays within ε, as the paper has it. The authors' code lets the steps lead from
    a random start in [−ε, ε] to at most 2ε."""
    alpha: float = 0.2
    """Weight of the clean loss; the perturbed one has 1 − α."""
    mask_optimizer: Literal["adam", "sgd"] = "sgd"
    """SGD has momentum 0.9."""
    mask_lr: float = 0.2
    batch_statistics: bool = True
    """Whether BatchNorm normalises by the batch while masks are learned."""
    prune: bool = True
    """Whether units are cut off below a threshold; otherwise the masks stay as they are."""
    threshold: float | None = None
    """Units with masks up to it are cut; None takes the largest (in steps of 0.05, up to 0.9)
    that costs at most `max_drop` points of accuracy on the images at hand, or 0 if none does."""
    max_drop: float = 5.0
    crop_padding: int = 4
    flip: bool = True

    def erase(self, task: Task) -> Erased:
        """Learn masks under adversarial noise, then prune (Eq. 3.2 of the AWM paper)."""
        network = _Noisy(task, self)
        optimizer: torch.optim.Optimizer = (
            torch.optim.Adam(network.masks.values(), self.mask_lr)
            if self.mask_optimizer == "adam"
            else torch.optim.SGD(network.masks.values(), self.mask_lr, momentum=0.9)
        )
        history: list[dict[str, float]] = []
        losses = []
        augment = Augment(self.crop_padding, self.flip)
        batches = task.batches(self.batch_size, self.steps, augment)
        for step, (images, labels) in enumerate(batches, start=1):
            noise = network.worst_noise(images, labels)
            noisy = cross_entropy(network.logits(images, noise), labels)
            clean = cross_entropy(network.logits(images), labels)
            optimizer.zero_grad()
            (self.alpha * clean + (1 - self.alpha) * noisy).backward()
            optimizer.step()
            with torch.no_grad():
                for mask in network.masks.values():
                    mask.clamp_(0, 1)
            losses.append(torch.stack([clean, noisy]).detach())
            if step == self.steps or step % max(1, self.steps // HISTORY) == 0:
                clean_loss, noisy_loss = torch.stack(losses).mean(0).tolist()
                masks = torch.cat([mask.detach().flatten() for mask in network.masks.values()])
                history.append(
                    {
                        "epoch": float(len(history)),
                        "clean_loss": clean_loss,
                        "perturbed_loss": noisy_loss,
                        "mask_mean": float(masks.mean()),
                    }
                )
                losses.clear()
        found = {name: mask.detach() for name, mask in network.masks.items()}
        _apply(task.model, self._pruned(task, found) if self.prune else found)
        return Erased(history, {name.removesuffix(".weight"): m for name, m in found.items()})

    def _pruned(self, task: Task, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """Zeros and ones."""
        if self.threshold is not None:
            return _cut(masks, self.threshold)
        allowed = task.accuracy(task.model) - self.max_drop
        cheap = []
        for threshold in THRESHOLDS:
            trial = copy.deepcopy(task.model)
            _apply(trial, _cut(masks, threshold))
            if task.accuracy(trial) >= allowed:
                cheap.append(threshold)
        best = max(cheap, default=0.0)
        how = (
            "by accuracy on the images at hand"
            if cheap
            else f"though that costs more than {self.max_drop:g} points of accuracy on the images "
            "at hand: every threshold does"
        )
        task.notes.append(f"masks up to {best:.2f} are cut, {how}")
        return _cut(masks, best)


def prune(model: nn.Module, masks: Mapping[str, Tensor], threshold: float) -> nn.Module:
    """A copy of a network whose neurons with masks up to `threshold` are cut off.

    Args:
        model: the network that the masks were learned for.
        masks: of each BatchNorm, by its name, (channels,): a result's.
        threshold: in [0, 1].
    """
    pruned = copy.deepcopy(model)
    _apply(pruned, _cut({f"{name}.weight": mask for name, mask in masks.items()}, threshold))
    return pruned


@torch.no_grad()
def with_worst_noise(task: Task, settings: Anp) -> nn.Module:
    """A copy of the network whose neurons mislead it the most, by noise (Eq. 3.1)."""
    network = _Noisy(task, settings)
    with torch.enable_grad():
        noise = network.worst_noise(task.images, task.labels)
    perturbed = copy.deepcopy(task.model)
    _apply(perturbed, {name: 1 + value for name, value in noise.items()})
    return perturbed


class _Noisy:
    """The network with a mask on some parameters, and noise on those and more."""

    def __init__(self, task: Task, settings: Anp) -> None:
        self.task, self.settings = task, settings
        self.model = copy.deepcopy(task.model).requires_grad_(False)
        for module in self.model.modules():
            if isinstance(module, NORMS) and settings.batch_statistics:
                module.train()
                module.momentum = 0.0  # running statistics stay
        parameters = dict(self.model.named_parameters())
        layers = NORMS if settings.units == "neurons" else CONVS
        names = [name for name, m in self.model.named_modules() if isinstance(m, layers)]
        self.masked = {
            f"{n}.weight": parameters[f"{n}.weight"] for n in names if f"{n}.weight" in parameters
        }
        if not self.masked:
            wanted = "BatchNorm with scales" if settings.units == "neurons" else "convolutions"
            raise ValueError(f"model: expected {wanted} for units={settings.units!r}, got none")
        # The bias has no mask.
        self.shifted = {
            f"{n}.bias": parameters[f"{n}.bias"]
            for n in names
            if settings.units == "neurons" and f"{n}.bias" in parameters
        }
        self.masks = {
            name: torch.ones_like(value, requires_grad=True) for name, value in self.masked.items()
        }

    def logits(self, images: Tensor, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        """With masks on, and noise if there is any."""
        noise = noise or {}
        values = {
            name: (self.masks[name] + noise[name] if noise else self.masks[name]) * value
            for name, value in self.masked.items()
        }
        if noise:
            values |= {name: (1 + noise[name]) * value for name, value in self.shifted.items()}
        return self.task.logits(lambda x: functional_call(self.model, values, (x,)), images)

    def worst_noise(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """From a random start in [−ε, ε] up the loss (Eq. 3.1 of the AWM paper)."""
        eps, steps = self.settings.eps, self.settings.noise_steps
        most = eps if self.settings.clip_noise else 2 * eps
        noise = {
            name: (2 * torch.rand(value.shape, generator=self.task.generator) - 1).to(value) * eps
            for name, value in (self.masked | self.shifted).items()
        }
        for _ in range(steps):
            for value in noise.values():
                value.requires_grad_()
            loss = cross_entropy(self.logits(images, noise), labels)
            grads = torch.autograd.grad(loss, list(noise.values()))
            noise = {
                name: (value.detach() + eps / steps * grad.sign()).clamp(-most, most)
                for (name, value), grad in zip(noise.items(), grads, strict=True)
            }
        return noise


def _cut(masks: Mapping[str, Tensor], threshold: float) -> dict[str, Tensor]:
    return {name: (mask > threshold).to(mask) for name, mask in masks.items()}


@torch.no_grad()
def _apply(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Multiply parameters by masks of the same names."""
    for name, parameter in model.named_parameters():
        if name in masks:
            parameter.mul_(masks[name])
