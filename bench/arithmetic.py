"""How much arithmetic a purification is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from awm_defense import PurifyResult, Recipe, examine
from awm_defense.awm.batches import Batches
from bench.common import DEVICE

# Multiply-adds of a pair of steps, in units of those that one batch takes forward: the trigger step
# has a forward and an input gradient, the mask step these and the weight gradient of twice as many
# images. The images' own labels are found once an epoch.
PASSES = {"forward": 3, "input_grad": 3, "weight_grad": 2}


def multiply_adds(model: nn.Module, image: Tensor) -> dict[str, float]:
    """Of each convolution and linear layer, by name, for one image (1, c, h, w)."""
    names = {m: name for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    found = dict.fromkeys(names.values(), 0.0)

    def count(layer: Any, _: Any, out: Tensor) -> None:
        found[names[layer]] += out.numel() * layer.weight[0].numel()

    handles = [layer.register_forward_hook(count) for layer in names]
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    return found


def examination_arithmetic(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Floating-point operations of an examination, by dtype."""
    with FlopCounterMode(display=False) as counter:
        examine(model, images, labels)
    return {"float32": float(counter.get_total_flops())}


def arithmetic(
    model: nn.Module, images: Tensor, labels: Tensor, result: PurifyResult
) -> dict[str, float]:
    """Floating-point operations of a purification, by the dtype they ran in.

    An image that a batch has twice counts once, as on a CPU the network sees it once.
    """
    assert isinstance(result.recipe, Recipe)
    batches = Batches(images, labels, result.recipe, True, 0).draw().images
    seen = sum(len(batch.unique()) if DEVICE == "cpu" else len(batch) for batch in batches)
    work = 2.0 * seen * result.recipe.epochs
    found: dict[str, float] = {}
    for name, count in multiply_adds(model, images[:1]).items():
        passes = result.precision.passes.get(name)
        for kind, times in PASSES.items():
            dtype = getattr(passes, kind) if passes else result.precision.dtype
            key = str(dtype).removeprefix("torch.")
            found[key] = found.get(key, 0.0) + work * times * count
    return found
