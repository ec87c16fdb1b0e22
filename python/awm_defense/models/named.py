"""Networks by name: this project's own, and those of other packages as timm:NAME and the like."""

import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from awm_defense.files.checkpoint import Misfit, Weights, without_prefix
from awm_defense.files.text import PATH, shown
from awm_defense.inputs.preparation import Preparation
from awm_defense.models import MODELS, build_model
from awm_defense.models.bounded import MOST_BYTES, Oversized, build_bounded, most_bytes
from awm_defense.models.packages import PACKAGES

FORMS = "backdoorbench:NAME, timm:NAME, torchvision:NAME, hf:FOLDER"
# Looked at where weights don't fit: one of each family that people publish often.
COMMON = (
    *MODELS,
    *(f"torchvision:resnet{depth}" for depth in (18, 34, 50, 101)),
    *(f"torchvision:{name}" for name in ("vgg11", "vgg16", "vgg16_bn", "alexnet", "densenet121")),
    *(f"torchvision:{name}" for name in ("mobilenet_v2", "mobilenet_v3_small", "squeezenet1_1")),
    *(f"torchvision:{name}" for name in ("efficientnet_b0", "convnext_tiny", "vit_b_16", "swin_t")),
    *(f"timm:vit_{size}_patch16_224" for size in ("tiny", "small", "base")),
    *(f"timm:{name}" for name in ("convnext_tiny", "swin_tiny_patch4_window7_224", "resnetv2_50")),
    *(f"timm:{name}" for name in ("efficientnet_b0", "mixer_b16_224", "regnety_002")),
)
ALIKE = 0.8
"""The share of names and shapes that two networks have in common to be taken for one."""


def build_named(
    name: str,
    num_classes: int | None = None,
    *,
    grey: bool = False,
    weights: Weights | None = None,
) -> nn.Module:
    """A new network with random weights.

    Args:
        name: a key of `MODELS`, or one of another package (`FORMS`).
        num_classes: None takes what the architecture has by itself.
        grey: whether it takes one channel instead of three.
        weights: from a file, that it is for; what is many times as large is not made.

    Raises:
        ImportError: the package is missing.
        ValueError: for an unknown name, or one that knows no grey images; for one that is too
            large.
    """
    package, colon, rest = name.partition(":")
    if colon:
        most = MOST_BYTES if weights is None else most_bytes(weights, weights.path.stat().st_size)
        try:
            build = functools.partial(PACKAGES[package].build, rest, num_classes, grey)
            return build_bounded(build, most)
        except Oversized as error:
            if weights is None:
                raise ValueError(f"--arch {shown(name)}: {error}") from error
            raise Misfit(
                f"{shown(weights.path, PATH)}: the weights don't fit into {shown(name)}: they are "
                f"too few; {error}"
            ) from error
    if grey:
        raise ValueError(f"--grey: {name} takes three channels")
    return build_model(name, 10 if num_classes is None else num_classes)


def rename_for(name: str, model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights from a file by the names that the network of that name has."""
    package, colon, _ = name.partition(":")
    return PACKAGES[package].rename(model, state) if colon else state


def check_name(name: str) -> str:
    """The name; ValueError where no network can have it."""
    package, colon, rest = name.partition(":")
    known = package in PACKAGES and bool(rest) if colon else name in MODELS
    if not known:
        raise ValueError(f"expected one of {', '.join(sorted(MODELS))}, {FORMS}, got {name!r}")
    return name


def prepare_named(name: str) -> Preparation:
    """How the network of that name wants its images, as far as its package says."""
    package, colon, rest = name.partition(":")
    return PACKAGES[package].prepare(rest) if colon else Preparation()


def build_to_fit(
    build: Callable[[int | None], nn.Module], state: Mapping[str, Tensor]
) -> nn.Module:
    """A network with as many classes as weights are for.

    Args:
        build: makes it, of a number of classes.
        state: the weights; the last one of the network has a row a class.
    """
    model = build(None)
    name, last = next(reversed(list(model.named_parameters())), ("", torch.empty(0)))
    found = without_prefix(state, model.state_dict()).get(name)
    if found is None or found.dim() == 0 or found.shape[:1] == last.shape[:1]:
        return model
    del model, last  # two at once would take twice the memory
    return build(len(found))


def nearest(state: Mapping[str, Tensor]) -> str | None:
    """The name of a common network whose weights have these names and shapes, if there is one."""
    likeness = {name: _likeness(name, state) for name in COMMON}
    best = max(likeness, key=lambda name: likeness[name])
    return best if likeness[best] >= ALIKE else None


def _likeness(name: str, state: Mapping[str, Tensor]) -> float:
    try:
        with torch.device("meta"):
            own = build_named(name).state_dict()
    except Exception:  # a package that is missing, or an architecture that can't be made so
        return 0.0
    ours, theirs = (
        {(key, value.shape) for key, value in part.items()}
        for part in (own, without_prefix(state, own))
    )
    return len(ours & theirs) / max(len(ours), len(theirs))
