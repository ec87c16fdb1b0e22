"""Architectures of other packages, by their names there. Nothing is downloaded."""

import difflib
import importlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from awm_defense.files import schema
from awm_defense.files.json_file import read_json
from awm_defense.files.manifest import check
from awm_defense.files.text import PATH, sentence, shown
from awm_defense.inputs.preparation import FILTERS, Preparation

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
# What Pillow calls its filters, which is what a processor of Hugging Face has.
FILTER_NAMES = {number.value: name for name, number in FILTERS.items()}
FOREIGN = (
    *("auto_map", "attn_implementation", "_attn_implementation", "experts_implementation"),
    *("_attn_implementation_internal", "dtype", "torch_dtype", "quantization_config"),
)
MOST_PARAMETERS = 1 << 31
MOST_LAYERS = 1000
# Parts of the names of settings that say how many layers there are.
LAYERS = ("layer", "depth", "block", "stage")


def _few_layers(name: str, value: Any) -> None:
    """A check of settings: making a network of a million layers would never end."""
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else ((name, one) for one in value)
        for key, one in inner:
            _few_layers(str(key), one)
    elif any(word in name for word in LAYERS) and isinstance(value, int) and value > MOST_LAYERS:
        raise ValueError(f"{shown(name)}: expected at most {MOST_LAYERS}, got {value}")


def _config(name: str, value: Any) -> None:
    schema.record({"model_type": schema.text()}, required=("model_type",))(name, value)
    _few_layers(name, value)


SIDE = schema.whole(1, 10_000)
SIDES = schema.record({"height": SIDE, "width": SIDE, "shortest_edge": SIDE})
SIZE = schema.optional(
    lambda name, value: (SIDES if isinstance(value, dict) else SIDE)(name, value)
)
Weights = dict[str, Tensor]
STATS = schema.optional(schema.listing(schema.number(0, 1)))
PROCESSOR_CONTENT = schema.record(
    {
        "size": SIZE,
        "crop_size": SIZE,
        "do_resize": schema.truth,
        "do_center_crop": schema.optional(schema.truth),
        "do_normalize": schema.truth,
        "image_mean": STATS,
        "image_std": STATS,
        "resample": schema.whole(0, 5),
        "crop_pct": schema.optional(schema.number(0.1, 1)),
    }
)


class Package(NamedTuple):
    """Where architectures come from."""

    build: Callable[[str, int | None, bool], nn.Module]
    """Of a name, a number of classes (None: the architecture's own), and whether images are grey:
    a network with random weights."""
    prepare: Callable[[str], Preparation]
    """How published weights of that name want their images."""
    rename: Callable[[nn.Module, Weights], Weights] = lambda model, weights: weights
    """Of a network and weights in a file: these by the names that the network has."""


def load_package(name: str) -> Any:
    """An optional package; ImportError says how to get it."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # one that does not fit the installed torch fails in other ways, too
        reason = "" if isinstance(error, ModuleNotFoundError) else f" ({shown(error)})"
        raise ImportError(f"{name} can't be imported{reason}: pip install {name}") from error


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


def _build_hf(folder: str, num_classes: int | None, grey: bool) -> nn.Module:
    path = Path(folder) / CONFIG
    config = _plain(read_json(path, finite=False))
    check(path, _config, config)
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers = load_package("transformers")
    kind = config.pop("model_type")
    if grey:
        config["num_channels"] = 1
    if num_classes is not None:
        config["id2label"] = {str(number): str(number) for number in range(num_classes)}
        config.pop("label2id", None)
    maker = transformers.AutoModelForImageClassification
    try:
        made = transformers.AutoConfig.for_model(kind, **config)
        with torch.device("meta"):
            count = sum(value.numel() for value in maker.from_config(made).parameters())
        if count > MOST_PARAMETERS:
            raise ValueError(f"it has {count} parameters, expected at most {MOST_PARAMETERS}")
        model: nn.Module = maker.from_config(made)
    except Exception as error:  # what a stranger's settings lead to is unknown
        raise ValueError(
            f"{shown(path, PATH)}: no image classifier can be made of it: {sentence(error)}"
        ) from error
    return model


def _rename_hf(model: nn.Module, weights: Weights) -> Weights:
    """Names in files differ from those of modules; only transformers knows how."""
    transformers = load_package("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    maker: Any = type(model)
    loaded, found = maker.from_pretrained(
        None,
        config=model.config,
        state_dict=dict(weights),
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    state = loaded.state_dict()
    for name in found["missing_keys"]:
        del state[name]
    for name in sorted(found["unexpected_keys"]):
        state[name] = torch.empty(0)
    for name, shape, _ in found["mismatched_keys"]:
        state[name] = torch.empty(shape)
    return state


def _plain(value: Any) -> Any:
    """Settings without those that name code to run, or the type that weights were stored in."""
    if not isinstance(value, dict):
        return value
    return {name: _plain(inner) for name, inner in value.items() if name not in FOREIGN}


def _prepare_hf(folder: str) -> Preparation:
    path = Path(folder) / PROCESSOR
    if not path.is_file():
        return Preparation()
    found = read_json(path)
    check(path, PROCESSOR_CONTENT, found)
    normalised = found.get("do_normalize", True)
    size, shortest = _size(found.get("size")) if found.get("do_resize", True) else (None, False)
    crop, _ = _size(found.get("crop_size")) if found.get("do_center_crop") else (None, False)
    taken = crop or size
    return Preparation(
        size=taken,
        crop=_share(found, size, crop),
        squash=not shortest,
        filter=FILTER_NAMES.get(found.get("resample", -1), "bilinear"),
        mean=found.get("image_mean") if normalised else None,
        std=found.get("image_std") if normalised else None,
    )


def _share(found: dict[str, Any], size: Any, crop: Any) -> float:
    if crop and size:
        return float(min(1.0, crop[0] / size[0]))
    return float(found.get("crop_pct") or 1.0)


def _size(value: Any) -> tuple[tuple[int, int] | None, bool]:
    """(h, w), and whether it is the shorter side that has to fit."""
    if value is None:
        return None, False
    if isinstance(value, int):
        return (value, value), False
    edge = value.get("shortest_edge")
    if edge is not None:
        return (edge, edge), True
    height, width = value.get("height"), value.get("width")
    return ((height, width) if height and width else None), False


def _unknown(package: str, name: str, known: Iterable[str]) -> ValueError:
    near = difflib.get_close_matches(name, list(known), n=3)
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    return ValueError(f"--arch: {package} knows no image classifier {shown(name)!r}{meant}")


PACKAGES = {
    "timm": Package(_build_timm, _prepare_timm),
    "torchvision": Package(_build_torchvision, _prepare_torchvision),
    "hf": Package(_build_hf, _prepare_hf, _rename_hf),
}
