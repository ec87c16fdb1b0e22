"""The `official` recipe written plainly in eager PyTorch: the baseline of bench_purify.py.

Weights are parameters with gradients, m * θ is in every forward, BatchNorm is not folded, the
clean and the perturbed half run separately, Adam and clamp are separate calls.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from awm_defense import PurifyResult
from awm_defense.awm.batches import Batches
from awm_defense.awm.recipe import Recipe

# How far masks may be off in `check_equal`, in bfloat16 and in float32.
HALF, SINGLE = 0.25, 0.02


def loader(data: Batches) -> DataLoader:
    """A phase's batches, drawn exactly as `awm_defense.purification` draws them."""
    dataset = TensorDataset(data.images, data.labels)
    return DataLoader(dataset, batch_sampler=data.draw().images.tolist())


def plain_purify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    recipe: Recipe,
    seed: int,
    compiled: bool = False,
) -> tuple[dict[str, Tensor], Tensor]:
    """Masks by layer name, and the last Δ. For recipes without fresh augmentation.

    `compiled` gives the forward pass, and with it the backward pass, to torch.compile.
    """
    classes = len(labels.unique())
    recipe = recipe.resolve(len(images), classes, images[0].numel())
    assert recipe.mask_lr is not None and recipe.tau is not None
    assert recipe.alpha is not None and recipe.beta is not None
    data = Batches(images, labels, recipe, len(images) <= classes, seed)
    model = copy.deepcopy(model).eval()
    convs = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    masks = {name: torch.ones_like(conv.weight, requires_grad=True) for name, conv in convs.items()}
    optimizer_class = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[recipe.mask_optimizer]
    optimizer = optimizer_class(masks.values(), lr=recipe.mask_lr)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, recipe.mask_lr_decay)

    def forward(x: Tensor) -> Tensor:
        weights = {f"{name}.weight": masks[name] * conv.weight for name, conv in convs.items()}
        logits: Tensor = functional_call(model, weights, (x,))
        return logits

    if compiled:
        forward = torch.compile(forward)

    for _ in range(recipe.epochs):
        delta = torch.zeros_like(images[0], requires_grad=True)
        trigger_optimizer = torch.optim.SGD([delta], lr=recipe.trigger_lr)
        for x, _ in loader(data):
            with torch.no_grad():
                targets = forward(x).argmax(1)
            trigger_optimizer.zero_grad()
            (-cross_entropy(forward(x + delta), targets)).backward()
            trigger_optimizer.step()
        with torch.no_grad():
            delta.mul_((recipe.tau / delta.abs().sum()).clamp(max=1))
        trigger = delta.detach()
        for x, y in loader(data):
            optimizer.zero_grad()
            clean = cross_entropy(forward(x), y)
            perturbed = cross_entropy(forward((x + trigger).clamp(0, 1)), y)
            norm = sum(mask.abs().sum() for mask in masks.values())
            (recipe.alpha * clean + recipe.beta * perturbed + recipe.gamma * norm).backward()
            optimizer.step()
            with torch.no_grad():
                for mask in masks.values():
                    mask.clamp_(0, 1)
        schedule.step()
    return {name: mask.detach() for name, mask in masks.items()}, trigger


def check_equal(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    call: Callable[..., Any],
    tolerance: float,
) -> None:
    """`call` gives the plain loop's masks from the same seed, before Adam amplifies rounding.

    Differences are taken relative to the largest change of a mask.

    Raises:
        AssertionError: otherwise.
    """
    few = {"epochs": "1", "inner_epochs": "1", "mask_optimizer": "sgd", "mask_lr": "1"}
    recipe = recipe.with_options(few)
    expected, _ = plain_purify(model, images, labels, recipe=recipe, seed=0)
    result = call(model, images, labels, recipe=recipe, seed=0)
    masks = result.masks if isinstance(result, PurifyResult) else result[0]
    assert set(masks) == set(expected), f"masks of {sorted(masks)}: not timed"
    change = max(float((1 - mask).abs().max()) for mask in expected.values())
    worst = max(float((masks[name] - mask).abs().max()) for name, mask in expected.items())
    assert worst <= tolerance * change, f"masks differ by {worst / change:.2g}: not timed"
