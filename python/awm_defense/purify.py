"""Adversarial Weight Masking: find the worst universal trigger, mask it away, repeat."""

from __future__ import annotations

import copy
import resource
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from awm_defense.batches import Batches
from awm_defense.flat import maskable
from awm_defense.network import WorkingNetwork
from awm_defense.recipes import Recipe, get_recipe
from awm_kernels import l1_project_, l1_rescale_, perturb, trigger_step_


@dataclass
class PurifyResult:
    """What `purify` returns."""

    model: nn.Module
    """A copy of the given model, same class, its weights replaced by m ⊙ θ."""
    masks: dict[str, Tensor]
    """m of each masked layer, by its name, in its weight's shape; in [0, 1]."""
    trigger: Tensor
    """Δ of the last epoch, (c, h, w), in pixel space (values of images in [0, 1])."""
    history: list[dict[str, float]]
    """One entry an epoch: epoch, trigger_loss, trigger_norm (L1, in the ball), clean_loss,
    perturbed_loss (means over the epoch's steps), mask_mean (of all masks, at its end)."""
    seconds: float
    """Wall-clock time of the purification."""
    peak_memory_mb: float
    """CUDA: peak of memory allocated meanwhile. CPU: peak resident size of the process."""
    recipe: Recipe
    """The recipe, with every value that was used."""
    notes: list[str] = field(default_factory=list)
    """What did not go as usual: fallbacks, non-finite values."""


def _check(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images: expected a floating-point tensor, got {got}")
    if images.dim() != 4 or images.shape[0] == 0:
        raise ValueError(f"images: expected shape (n ≥ 1, c, h, w), got {tuple(images.shape)}")
    if images.min() < 0 or images.max() > 1:
        raise ValueError(
            "images: expected pixel values in [0, 1] (give mean and std for a model fed "
            f"normalised input), got {images.min():.3g} to {images.max():.3g}"
        )
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels: expected an int64 tensor, got {got}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"labels: expected shape ({len(images)},), got {tuple(labels.shape)}")


INF = float("inf")


def _seek_trigger(network: WorkingNetwork, data: Batches, delta: Tensor, recipe: Recipe) -> Tensor:
    """Phase 1 (Algorithm 1, lines 3–9): climb the loss in Δ; returns each step's loss."""
    delta.detach_().zero_()
    low, high = (0.0, 1.0) if recipe.clip_trigger_phase else (-INF, INF)
    predictions = None
    if recipe.trigger_targets == "predictions" and not recipe.fresh_augmentation:
        # Masks stand still in this phase, so one pass labels every step's images.
        with torch.no_grad():
            chunks = data.images.split(data.batch)
            predictions = torch.cat([network(network.layout(c)).argmax(1) for c in chunks])
    losses = []
    for _ in range(data.steps):
        images, labels, index = data.draw()
        images = network.layout(images)
        targets = labels
        if predictions is not None:
            targets = predictions[index]
        elif recipe.trigger_targets != "labels":
            with torch.no_grad():
                targets = _soft_or_hard(network, images, recipe.trigger_targets)
        delta.requires_grad_()
        loss = cross_entropy(network(perturb(images, delta, low, high)), targets)
        (grad,) = torch.autograd.grad(loss, delta)
        delta.detach_()
        trigger_step_(delta, grad, lr=recipe.trigger_lr)
        losses.append(loss.detach())
    assert recipe.tau is not None
    (l1_project_ if recipe.trigger_ball == "project" else l1_rescale_)(delta, recipe.tau)
    return torch.stack(losses)


def _soft_or_hard(network: WorkingNetwork, images: Tensor, kind: str) -> Tensor:
    if kind == "original":
        return network.forward(network.original, images).softmax(1)
    return network(images).argmax(1)


def _learn_masks(
    network: WorkingNetwork, data: Batches, delta: Tensor, recipe: Recipe, epoch: int
) -> tuple[Tensor, Tensor]:
    """Phase 2 (lines 10–14): both halves in one batch; returns (steps, 2) losses, stats (2,)."""
    assert recipe.alpha is not None and recipe.beta is not None
    low, high = (0.0, 1.0) if recipe.clip_mask_phase else (-INF, INF)
    lr = recipe.mask_lr * recipe.mask_lr_decay**epoch
    network.flat.require_grad(True)
    losses, bad = [], torch.zeros_like(network.flat.stats)
    for _ in range(data.steps):
        images, labels, _ = data.draw()
        images = network.layout(images)
        targets = labels
        if recipe.mask_targets == "original":
            with torch.no_grad():
                targets = _soft_or_hard(network, images, "original")
        both = network.layout(torch.cat([images, perturb(images, delta, low, high)]))
        clean, perturbed = network(both).chunk(2)
        clean_loss = cross_entropy(clean, targets)
        perturbed_loss = cross_entropy(perturbed, targets)
        (recipe.alpha * clean_loss + recipe.beta * perturbed_loss).backward()
        bad += network.flat.update(lr, recipe.gamma)
        losses.append(torch.stack([clean_loss.detach(), perturbed_loss.detach()]))
    network.flat.require_grad(False)
    return torch.stack(losses), bad


def _pixel_stat(name: str, value: object, like: Tensor) -> Tensor | None:
    """mean or std, one number or one a channel, as (1, c or 1, 1, 1)."""
    if value is None:
        return None
    stat = torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1)
    if stat.shape[1] not in (1, like.shape[1]):
        raise ValueError(f"{name}: expected 1 or {like.shape[1]} numbers, got {stat.shape[1]}")
    return stat


def _purified(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    purified = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            weight = purified.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            weight.mul_(mask.to(weight))
    return purified


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def purify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    recipe: str | Recipe = "default",
    mean: float | list[float] | Tensor | None = None,
    std: float | list[float] | Tensor | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    progress: bool = False,
) -> PurifyResult:
    """Erase a backdoor with as little as one clean image per class (AWM paper, Algorithm 1).

    Args:
        model: the network, images (n, c, h, w) to logits (n, classes). It is left untouched and
            always evaluated in eval mode.
        images: clean images, (n, c, h, w), floating point in [0, 1]; n may be smaller than a batch.
        labels: their classes, int64, (n,).
        recipe: "paper", "official", "default", or a `Recipe`.
        mean, std: for a model fed (pixel − mean) / std: a number, or one a channel. The trigger
            and its clipping stay in pixel space.
        device: where to work; default: where the model is. The result lives where the model is.
        seed: fixes batches and augmentation.
        progress: show a progress bar.

    Returns:
        A `PurifyResult`.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    _check(model, images, labels)
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    if not any(True for _ in maskable(model, recipe.layers)):
        raise ValueError(f"model: expected layers to mask (layers={recipe.layers!r}), got none")
    if (mean is None) != (std is None):
        raise ValueError("mean, std: expected both or neither")
    parameter = next(model.parameters())
    work_device = torch.device(device) if device is not None else parameter.device
    if work_device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(work_device)
    started = time.perf_counter()
    images = images.detach().to(work_device, parameter.dtype)
    labels = labels.to(work_device)
    notes: list[str] = []
    source = model if work_device == parameter.device else copy.deepcopy(model).to(work_device)
    classes = len(labels.unique())
    one_shot = len(images) <= classes
    recipe = recipe.resolve(len(images), classes)
    network = WorkingNetwork(
        source,
        recipe,
        images[: recipe.batch_size],
        _pixel_stat("mean", mean, images),
        _pixel_stat("std", std, images),
        notes,
    )
    data = Batches(images, labels, recipe, one_shot, seed)
    delta = torch.zeros_like(images[0])
    history: list[dict[str, float]] = []
    bar = tqdm(range(recipe.epochs), desc="purify", unit="epoch", disable=not progress)
    for epoch in bar:
        before = network.flat.mask.clone()
        trigger_losses = _seek_trigger(network, data, delta, recipe)
        losses, bad = _learn_masks(network, data, delta, recipe, epoch)
        clean_loss, perturbed_loss = losses.mean(dim=0).tolist()
        entry = {
            "epoch": float(epoch),
            "trigger_loss": trigger_losses.mean().item(),
            "trigger_norm": delta.abs().sum().item(),
            "clean_loss": clean_loss,
            "perturbed_loss": perturbed_loss,
            "mask_mean": network.flat.mask.mean().item(),
        }
        if bad[1] > 0 or not torch.isfinite(losses).all():
            network.flat.restore(before)
            notes.append(f"epoch {epoch} met non-finite values; the masks before it are returned")
            break
        history.append(entry)
        bar.set_postfix(clean=f"{clean_loss:.3f}", perturbed=f"{perturbed_loss:.3f}")
    masks = {name: mask.to(parameter.device) for name, mask in network.flat.masks().items()}
    return PurifyResult(
        model=_purified(model, masks),
        masks=masks,
        trigger=delta.to(parameter.device),
        history=history,
        seconds=time.perf_counter() - started,
        peak_memory_mb=_peak_memory_mb(work_device),
        recipe=recipe,
        notes=notes,
    )
