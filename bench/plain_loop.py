"""The `official` recipe written plainly in eager PyTorch: the baseline of bench_purify.py.

Weights are parameters with gradients, m * θ is in every forward, BatchNorm is not folded, the
clean and the perturbed half run separately, Adam and clamp are separate calls.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from awm_defense import purify
from awm_defense.batches import Batches
from awm_defense.recipes import Recipe


def loader(data: Batches) -> DataLoader:
    """A phase's batches, drawn exactly as `awm_defense.purify` draws them."""
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


def check_equal(model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe) -> None:
    """Both give the same masks from the same seed, before Adam amplifies rounding.

    Raises:
        AssertionError: otherwise.
    """
    few = {"epochs": "1", "passes": "1", "mask_optimizer": "sgd", "mask_lr": "1"}
    recipe = recipe.with_options(few)
    masks, _ = plain_purify(model, images, labels, recipe=recipe, seed=0)
    result = purify(model, images, labels, recipe=recipe, seed=0, precision="fp32")
    worst = max(float((result.masks[name] - mask).abs().max()) for name, mask in masks.items())
    assert worst < 1e-3, f"masks differ by {worst:.2g}: not timed"
