"""Networks of Hugging Face from a folder: settings alone, no code, and nothing is downloaded."""

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from awm_defense.files import schema
from awm_defense.files.json_file import read_json
from awm_defense.files.manifest import MOST_CLASSES, check
from awm_defense.files.text import PATH, sentence, shown
from awm_defense.models.bounded import Oversized
from awm_defense.models.optional import load_package

CONFIG = "config.json"
# Those whose networks transformers makes by itself, of sizes alone. Left out are types that hand
# settings on to another package (timm_wrapper to timm, which reads any file that they name; dinat
# to natten), and those that take no pixels (imagegpt) or are language models (shieldgemma2).
TYPES = (
    *("beit", "bit", "clip", "convnext", "convnextv2", "cvt", "data2vec-vision", "deit", "dinov2"),
    *("dinov2_with_registers", "donut-swin", "efficientnet", "focalnet", "hgnet_v2", "hiera"),
    *("ijepa", "levit", "metaclip_2", "mobilenet_v1", "mobilenet_v2", "mobilevit", "mobilevitv2"),
    *("perceiver", "poolformer", "pp_lcnet", "pvt", "pvt_v2", "regnet", "resnet", "segformer"),
    *("siglip", "siglip2", "swiftformer", "swin", "swinv2", "textnet", "vit", "vit_msn"),
)
# Settings that name code to run, or say how weights were stored.
FOREIGN = (
    *("auto_map", "attn_implementation", "_attn_implementation", "experts_implementation"),
    *("_attn_implementation_internal", "dtype", "torch_dtype", "quantization_config"),
    *("fusion_config", "transformers_weights"),
)
# Of whole numbers; transformers lists the classes before it makes a network.
MOST = 1_000_000
MOST_LAYERS = 1000
# Parts of the names of settings that say how many layers there are.
LAYERS = ("layer", "depth", "block", "stage")


def build(folder: str, num_classes: int | None, grey: bool) -> nn.Module:
    """The network that config.json in a folder describes, with random weights.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: transformers is missing.
        ValueError: no image classifier can be made of it.
    """
    path = Path(folder) / CONFIG
    config = _plain(read_json(path, finite=False))
    check(path, _config, config)
    transformers = _load_transformers()
    kind = config.pop("model_type")
    names = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    if kind not in names:
        raise ValueError(
            f"{shown(path, PATH)}: transformers knows no image classifier of type {shown(kind)!r}"
        )
    if kind not in TYPES:
        raise ValueError(
            f"{shown(path, PATH)}: model_type: expected one whose network transformers makes by "
            f"itself, of pixels, got {shown(kind)!r}"
        )
    if grey:
        config["num_channels"] = 1
    if num_classes is not None:
        config["id2label"] = {str(number): str(number) for number in range(num_classes)}
        config.pop("label2id", None)
    config.setdefault("architectures", [])  # it looks there where a type has several networks
    maker = transformers.AutoModelForImageClassification
    try:
        with warnings.catch_warnings(action="ignore"):  # of settings with an old name
            _check_names(config, transformers.AutoConfig.for_model(kind))
            made = transformers.AutoConfig.for_model(kind, **config)
            model: nn.Module = maker.from_config(made)
    except Exception as error:  # what a stranger's settings lead to is unknown
        kind_of_error = Oversized if isinstance(error, Oversized) else ValueError
        raise kind_of_error(
            f"{shown(path, PATH)}: no image classifier can be made of it: {sentence(error)}"
        ) from error
    return model


def rename(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights in a file by the names of modules; how they differ, only transformers knows."""
    _load_transformers()
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


def _load_transformers() -> Any:
    """transformers, which then neither downloads nor prints: it prints settings as they are."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers = load_package("transformers")
    transformers.utils.logging.set_verbosity(logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _check_names(config: dict[str, Any], known: Any) -> None:
    """Raise ValueError where an entry is no setting, but part of how `known`, a config, works."""
    for name, value in config.items():
        own = getattr(type(known), name, None)
        is_setting = name in vars(known) or (isinstance(own, property) and own.fset is not None)
        if hasattr(type(known), name) and not is_setting and name != "model_type":
            raise ValueError(f"expected no entry {shown(name)!r}")
        inner = getattr(known, name, None)
        if isinstance(value, dict) and hasattr(inner, "model_type"):
            _check_names(value, inner)


def _plain(value: Any) -> Any:
    """Settings without those that are foreign."""
    if not isinstance(value, dict):
        return value
    return {name: _plain(inner) for name, inner in value.items() if name not in FOREIGN}


def _check_sizes(name: str, value: Any) -> None:
    """A check of settings: making a network of a million layers, or classes, would never end."""
    if isinstance(value, dict | list):
        most = MOST_CLASSES if isinstance(value, dict) else MOST_LAYERS
        if len(value) > most:
            raise ValueError(f"{shown(name)}: expected at most {most} values, got {len(value)}")
        inner = value.items() if isinstance(value, dict) else ((name, one) for one in value)
        for key, one in inner:
            _check_sizes(str(key), one)
    elif isinstance(value, int | float):
        most = MOST_CLASSES if name == "num_labels" else MOST
        of_layers = any(word in name for word in LAYERS) and "channels" not in name
        most = MOST_LAYERS if of_layers else most
        if abs(value) > most:
            raise ValueError(f"{shown(name)}: expected at most {most}, got {value}")


def _config(name: str, value: Any) -> None:
    schema.record({"model_type": schema.text()}, required=("model_type",))(name, value)
    _check_sizes(name, value)
