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

from awm_defense.data.augment import random_resized_crop_flip
from awm_defense.flat import FlatMasks, maskable
from awm_defense.fold import fold_batchnorm
from awm_defense.recipes import Recipe, get_recipe
from awm_kernels import l1_project_, l1_rescale_, perturb, trigger_step_

FOLD_TOLERANCE = 1e-3


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


class _Network:
    """The working copy: pixel-space images in, logits out; folded and channels_last if it can."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        sample: Tensor,
        mean: Tensor | None,
        std: Tensor | None,
        notes: list[str],
    ) -> None:
        self.mean, self.std = mean, std
        self.channels_last = True
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        with torch.no_grad():
            expected = self._first_forward(sample, notes)
            self.module, scales = self._fold(sample, expected, notes)
        # A folded network without its scale is not the original: keep one that is.
        self.original = copy.deepcopy(self.module)
        for name, scale in scales.items():
            weight = self.original.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            weight.mul_(scale.reshape(-1, *([1] * (weight.dim() - 1))))
        moments = 2 if recipe.mask_optimizer == "adam" else 0
        self.flat = FlatMasks(
            self.module,
            list(maskable(self.module, recipe.layers)),
            self._carried(scales, recipe),
            channels_last=self.channels_last,
            moments=moments,
        )
        if self.channels_last:
            self.original.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _first_forward(self, sample: Tensor, notes: list[str]) -> Tensor:
        try:
            logits = self.forward(self.module, self.layout(sample))
        except RuntimeError:
            self.channels_last = False
            logits = self.forward(self.module, self.layout(sample))
            notes.append("the model does not take channels_last input; contiguous is used")
        if logits.dim() != 2:
            raise ValueError(f"model: expected logits (n, classes), got {tuple(logits.shape)}")
        return logits

    def _fold(
        self, sample: Tensor, expected: Tensor, notes: list[str]
    ) -> tuple[nn.Module, dict[str, Tensor]]:
        try:
            folded, scales = fold_batchnorm(self.module)
        except Exception as error:  # torch.fx raises whatever the model's own code raises
            notes.append(f"BatchNorm is not folded: torch.fx can't trace the model ({error})")
            return self.module, {}
        check = copy.deepcopy(folded)
        for name, scale in scales.items():
            weight = check.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            weight.mul_(scale.reshape(-1, *([1] * (weight.dim() - 1))))
        error_size = (self.forward(check, self.layout(sample)) - expected).abs().max()
        if not error_size <= FOLD_TOLERANCE * expected.abs().max().clamp(min=1):
            notes.append(f"BatchNorm is not folded: logits would change by {error_size:.2g}")
            return self.module, {}
        return folded, scales

    def _carried(self, scales: dict[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
        """Scales that masks carry; those of layers without a mask go into the weight."""
        masked = maskable(self.module, recipe.layers)
        for name in scales.keys() - masked.keys():
            weight = self.module.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            weight.mul_(scales[name].reshape(-1, *([1] * (weight.dim() - 1))))
        return {name: scale for name, scale in scales.items() if name in masked}

    def layout(self, images: Tensor) -> Tensor:
        """`images` in the memory format the network runs in."""
        if self.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        return images.contiguous()

    def forward(self, module: nn.Module, images: Tensor) -> Tensor:
        if self.mean is not None and self.std is not None:
            images = (images - self.mean) / self.std
        logits: Tensor = module(images)
        return logits

    def __call__(self, images: Tensor) -> Tensor:
        return self.forward(self.module, images)


class _Data:
    """Batches of (images, labels, indices), shuffled, augmented as the recipe says."""

    def __init__(
        self, images: Tensor, labels: Tensor, recipe: Recipe, one_shot: bool, seed: int
    ) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.recipe = recipe
        if one_shot and recipe.copies and not recipe.fresh_augmentation:
            copies = [self.augment(images) for _ in range(recipe.copies)]
            images = torch.cat([images, *copies])
            labels = labels.repeat(recipe.copies + 1)
        self.images, self.labels = images, labels
        assert recipe.batch_size is not None
        if one_shot and recipe.fresh_augmentation:
            # As many images an epoch as the fixed copies would make.
            repeat = SIZE_OF_FRESH_EPOCH
        else:
            repeat = 1
        self.pool = torch.arange(len(images)).repeat(repeat)
        self.batch = min(recipe.batch_size, len(self.pool))
        self.steps = recipe.passes * (len(self.pool) // self.batch)
        self.queue = torch.empty(0, dtype=torch.int64)

    def augment(self, images: Tensor) -> Tensor:
        return random_resized_crop_flip(
            images, self.generator, scale=(self.recipe.crop_scale, 1.0), flip=self.recipe.flip
        )

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        if len(self.queue) < self.batch:
            order = torch.randperm(len(self.pool), generator=self.generator)
            self.queue = self.pool[order]
        index, self.queue = self.queue[: self.batch], self.queue[self.batch :]
        index = index.to(self.images.device)
        images = self.images[index]
        if self.recipe.fresh_augmentation:
            images = self.augment(images)
        return images, self.labels[index], index


SIZE_OF_FRESH_EPOCH = 10
INF = float("inf")


def _seek_trigger(network: _Network, data: _Data, delta: Tensor, recipe: Recipe) -> Tensor:
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


def _soft_or_hard(network: _Network, images: Tensor, kind: str) -> Tensor:
    if kind == "original":
        return network.forward(network.original, images).softmax(1)
    return network(images).argmax(1)


def _learn_masks(
    network: _Network, data: _Data, delta: Tensor, recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """Phase 2 (lines 10–14): both halves in one batch; returns (steps, 2) losses, stats (2,)."""
    assert recipe.alpha is not None and recipe.beta is not None
    low, high = (0.0, 1.0) if recipe.clip_mask_phase else (-INF, INF)
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
        (recipe.alpha * clean_loss + recipe.beta * perturbed_loss).backward()  # type: ignore[no-untyped-call]
        bad += network.flat.update(recipe.mask_lr, recipe.gamma)
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
    network = _Network(
        source,
        recipe,
        images[: recipe.batch_size],
        _pixel_stat("mean", mean, images),
        _pixel_stat("std", std, images),
        notes,
    )
    data = _Data(images, labels, recipe, one_shot, seed)
    delta = torch.zeros_like(images[0])
    history: list[dict[str, float]] = []
    bar = tqdm(range(recipe.epochs), desc="purify", unit="epoch", disable=not progress)
    for epoch in bar:
        before = network.flat.mask.clone()
        trigger_losses = _seek_trigger(network, data, delta, recipe)
        losses, bad = _learn_masks(network, data, delta, recipe)
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
