"""One-shot purification, `official` recipe: through the kernels against the plain loop.

`AWM_BENCH_EPOCHS` (default 1) of the recipe's 20 epochs are run; every epoch costs the same.
"""

import os

import pytest
import torch
from common import DEVICE, gate
from plain_loop import plain_purify

from awm_defense import get_recipe, purify
from awm_defense.models import build_model

EPOCHS = os.environ.get("AWM_BENCH_EPOCHS", "1")


def problem(arch, epochs):
    torch.manual_seed(0)
    model = build_model(arch, 10).eval().to(DEVICE)
    images, labels = torch.rand(10, 3, 32, 32, device=DEVICE), torch.arange(10, device=DEVICE)
    return model, images, labels, get_recipe("official").with_options({"epochs": epochs})


def check(arch):
    """Both loops give the same masks from the same seed, before Adam amplifies rounding."""
    model, images, labels, recipe = problem(arch, "1")
    recipe = recipe.with_options({"passes": "1", "mask_optimizer": "sgd", "mask_lr": "1"})
    masks, _ = plain_purify(model, images, labels, recipe=recipe, seed=0)
    result = purify(model, images, labels, recipe=recipe, seed=0, precision="fp32")
    for name, mask in masks.items():
        gate(result.masks[name], mask, 1e-3)


@pytest.mark.parametrize("arch", ["small_vgg", "resnet18"])
@pytest.mark.parametrize("kind", ["plain", "kernels"])
def bench_purify(benchmark, kind, arch):
    check(arch)
    model, images, labels, recipe = problem(arch, EPOCHS)
    run = {"plain": plain_purify, "kernels": purify}[kind]
    benchmark.group = f"official one-shot, {arch}, {EPOCHS} of 20 epochs ({DEVICE})"
    benchmark.pedantic(run, (model, images, labels), {"recipe": recipe, "seed": 0}, rounds=1)
