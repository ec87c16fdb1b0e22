"""The ways to purify that are timed against each other, and what they purify."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from awm_defense import Recipe, get_recipe, purify
from awm_defense.models import build_model
from bench.common import COMPILED, DEVICE, EAGER, KERNELS
from bench.plain_loop import plain_purify

RUNS: dict[str, Callable[..., Any]] = {
    EAGER: plain_purify,
    COMPILED: functools.partial(plain_purify, compiled=True),
    "kernels, float32": functools.partial(purify, precision="fp32"),
    KERNELS: purify,
}


def problem(arch: str, epochs: str) -> tuple[nn.Module, Tensor, Tensor, Recipe]:
    """An untrained network, one image a class, and `official` for some epochs."""
    torch.manual_seed(0)
    model = build_model(arch, 10).eval().to(DEVICE)
    images, labels = torch.rand(10, 3, 32, 32, device=DEVICE), torch.arange(10, device=DEVICE)
    return model, images, labels, get_recipe("official").with_options({"epochs": epochs})
