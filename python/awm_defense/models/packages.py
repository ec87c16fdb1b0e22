"""Architectures of other packages, by their names there. Nothing is downloaded."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from awm_defense.files.text import shown
from awm_defense.inputs.preparation import FILTERS, Preparation
from awm_defense.models import backdoorbench, hugging_face, processor
from awm_defense.models.optional import load_package

Weights = dict[str, Tensor]


class Package(NamedTuple):
    """Where architectures come from."""

    build: Callable[[str, int | None, bool], nn.Module]
    """Of a name, a number of classes (None: the architecture's own), and whether images are grey:
    a network with random weights."""
    prepare: Callable[[str], Preparation]
    """How published weights of that name want their images."""
    rename: Callable[[nn.Module, Weights], Weights] = lambda model, weights: weights
    """Of a network and weights in a file: these by the names that the network has."""


def _build_timm(name: str, num_classes: int | None, grey: bool) -> nn.Module:
    timm = load_package("timm")
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    # Not for three channels: some architectures know no other number, and no such option.
    if grey:
        options["in_chans"] = 1
    model: nn.Module = timm.create_model(name, pretrained=False, **options)
    return model


def _prepare_timm(name: str) -> Preparation:
    timm = load_package("timm")
    found = timm.get_pretrained_cfg(name)
    if found is None:
        return Preparation()
    channels, *size = found.input_size
    return Preparation(
        size=(size[0], size[1]),
        crop=found.crop_pct or 1.0,
        squash=found.crop_mode == "squash",
        filter=found.interpolation if found.interpolation in FILTERS else "bicubic",
        grey=channels == 1,
        mean=found.mean,
        std=found.std,
    )


def _build_torchvision(name: str, num_classes: int | None, grey: bool) -> nn.Module:
    models = load_package("torchvision").models
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    if grey:
        raise ValueError("--grey: torchvision's networks take three channels")
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    model: nn.Module = models.get_model(name, weights=None, **options)
    return model


def _prepare_torchvision(name: str) -> Preparation:
    models = load_package("torchvision").models
    found = models.get_model_weights(name).DEFAULT.transforms()
    (crop,), (edge,) = found.crop_size, found.resize_size
    return Preparation(
        size=(crop, crop),
        crop=min(1.0, crop / edge),
        filter=found.interpolation.value,
        mean=found.mean,
        std=found.std,
    )


def _unknown(package: str, name: str, known: Iterable[str]) -> ValueError:
    near = difflib.get_close_matches(name, list(known), n=3)
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    return ValueError(f"--arch: {package} knows no image classifier {shown(name)!r}{meant}")


PACKAGES = {
    "backdoorbench": Package(backdoorbench.build, lambda name: Preparation()),
    "timm": Package(_build_timm, _prepare_timm),
    "torchvision": Package(_build_torchvision, _prepare_torchvision),
    "hf": Package(hugging_face.build, processor.prepare, hugging_face.rename),
}
