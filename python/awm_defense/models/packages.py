"""Architectures of other packages, by their names there. Nothing is downloaded."""

import difflib
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
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


def _load_timm(name: str) -> Any:
    """timm, if it knows the name; with a colon or a slash a name is one of a file or a download."""
    timm = load_package("timm")
    with suppress(RuntimeError):  # of weights after the dot that nobody has published
        if re.fullmatch(r"[\w.-]+", name) and timm.is_model(name):
            timm.get_pretrained_cfg(name)
            return timm
    raise _unknown("timm", name, timm.list_models())


def _build_timm(name: str, num_classes: int | None, grey: bool) -> nn.Module:
    timm = _load_timm(name)
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    # Not for three channels: some architectures know no other number, and no such option.
    if grey:
        options["in_chans"] = 1
    model: nn.Module = timm.create_model(name, pretrained=False, **options)
    return model


def _prepare_timm(name: str) -> Preparation:
    found = _load_timm(name).get_pretrained_cfg(name)
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


def _load_torchvision(name: str) -> Any:
    """torchvision's networks, if the name is that of one that classifies images."""
    models = load_package("torchvision").models
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    return models


def _build_torchvision(name: str, num_classes: int | None, grey: bool) -> nn.Module:
    models = _load_torchvision(name)
    if grey:
        raise ValueError("--grey: torchvision's networks take three channels")
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    model: nn.Module = models.get_model(name, weights=None, **options)
    return model


def _prepare_torchvision(name: str) -> Preparation:
    models = _load_torchvision(name)
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
