"""Which weights of a network get a mask."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

LAYERS = ("auto", "conv", "linear", "all")
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)
FEW = 0.5
"""The share of a network's weights that masks should lie on."""


def find_weights(model: nn.Module, layers: str) -> dict[str, Tensor]:
    """The parameters that get a mask, by name; one that is shared counts once.

    Args:
        model: the network, its weights plain parameters.
        layers: "conv": of convolutions, transposed ones too; "linear": every other matrix that
            transforms features (linear layers, attention's projections, and what other layers call
            a weight, but no embeddings); "all": both; "auto": convolutions where these hold at
            least half of the weights of both, otherwise all. Anything else is patterns of
            parameters' names, separated by commas, like "blocks.*.mlp.*.weight,head.weight".

    Raises:
        ValueError: patterns of which one fits nothing.
    """
    if layers not in LAYERS:
        return _by_pattern(model, layers)
    kinds = list(_kinds(model))
    conv = {name: value for name, value, kind in kinds if kind == "convolution"}
    linear = {name: value for name, value, kind in kinds if kind in ("linear", "attention")}
    if layers == "auto":
        layers = "conv" if mostly_convolutions(model) else "all"
    if layers == "conv":
        return conv
    if layers == "linear":
        return linear
    return {name: value for name, value, _ in kinds if name in conv or name in linear}


def mostly_convolutions(model: nn.Module) -> bool:
    """Whether convolutions hold at least half of the weights that transform features."""
    sizes = {"convolution": 0, "linear": 0, "attention": 0}
    for _, value, kind in _kinds(model):
        if kind in sizes:
            sizes[kind] += value.numel()
    conv = sizes.pop("convolution")
    return 0 < conv >= sum(sizes.values())


def coverage(model: nn.Module, masked: list[str]) -> dict[str, tuple[int, int]]:
    """By kind of parameter: how many numbers carry a mask, and how many there are.

    Args:
        model: the network, its weights plain parameters.
        masked: names of parameters.
    """
    found: dict[str, tuple[int, int]] = {}
    for name, value, kind in _kinds(model):
        having, total = found.get(kind, (0, 0))
        found[kind] = having + value.numel() * (name in masked), total + value.numel()
    return found


def share(found: dict[str, tuple[int, int]]) -> float:
    """What share of all numbers in a `coverage` carries a mask."""
    total = sum(count for _, count in found.values())
    return sum(having for having, _ in found.values()) / total if total else 0.0


def key_of(parameter: str) -> str:
    """What a parameter's mask is called: its layer's name for a layer's `weight`."""
    return parameter.removesuffix(".weight")


def _kinds(model: nn.Module) -> Iterator[tuple[str, Tensor, str]]:
    """Each parameter, its name, and its kind; one that is shared where it comes first."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, value in module.named_parameters(prefix, recurse=False):
            if id(value) not in seen:
                seen.add(id(value))
                yield name, value, _kind(module, name.rpartition(".")[2], value)


def _kind(module: nn.Module, name: str, value: Tensor) -> str:
    if name.endswith("bias"):
        return "bias"
    if isinstance(module, NORMS):
        return "normalisation"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    if value.dim() < 2 or not name.endswith("weight"):
        return "other"
    if isinstance(module, _ConvNd):
        return "convolution"
    return "attention" if isinstance(module, nn.MultiheadAttention) else "linear"


def _by_pattern(model: nn.Module, layers: str) -> dict[str, Tensor]:
    parameters = {name: value for name, value, _ in _kinds(model)}
    found: set[str] = set()
    for pattern in layers.split(","):
        fits = {name for name in parameters if fnmatchcase(name, pattern.strip())}
        if not fits:
            raise ValueError(
                f"layers: expected one of {', '.join(LAYERS)} or patterns of parameters' names "
                f"(there are {', '.join(list(parameters)[:3])}, …), got {pattern.strip()!r}, "
                "which fits none"
            )
        found |= fits
    return {name: value for name, value in parameters.items() if name in found}
