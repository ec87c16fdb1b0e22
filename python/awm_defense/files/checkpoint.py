"""Reading and writing weights. A checkpoint is data: nothing in it is ever executed."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from awm_defense.files.atomic import write_bytes

# Where training scripts put the state dict in what they save.
NESTS = ("net", "model", "state_dict")
# What nn.DataParallel and DistributedDataParallel put before each key.
WRAPPER = "module."
# How many keys an error message lists.
SHOWN = 3


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the weights in a file, to the CPU.

    Args:
        path: a `.safetensors` file; or, with any other ending, what `torch.save` wrote: a state
            dict, at the top or under "net", "model" or "state_dict". It is read with
            `weights_only=True`, which builds tensors and plain values and runs no code.

    Returns:
        Parameter and buffer names to tensors; a "module." before every name is taken off.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it can't be read safely or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        content = _read(path)
    except Exception as error:  # a broken or hostile file can fail in any way
        raise ValueError(f"{path}: can't be read as weights alone: {_first_line(error)}") from error
    state = _find_state(content)
    if state is None:
        raise ValueError(
            f"{path}: expected a state dict at the top or under {', '.join(NESTS)}, "
            f"got {_describe(content)}"
        )
    while all(name.startswith(WRAPPER) for name in state):
        state = {name.removeprefix(WRAPPER): value for name, value in state.items()}
    return state


def save_model(path: Path, model: nn.Module | Mapping[str, Tensor]) -> None:
    """Write a model's state dict, or any named tensors, as a safetensors file.

    Tensors may share memory or have any strides; each is written in full.
    """
    write_bytes(path, as_safetensors(model))


def as_safetensors(model: nn.Module | Mapping[str, Tensor]) -> bytes:
    """The content of the file that `save_model` writes."""
    state = model.state_dict() if isinstance(model, nn.Module) else model
    # The format knows neither strides nor sharing, so each tensor gets memory of its own.
    copies = {
        name: value.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }
    # Not `save_file`: what it writes can be read by its owner only.
    return save(copies, metadata={"format": "pt"})


def checksum(path: Path) -> str:
    """SHA-256 of a file of weights, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_into(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy weights into a model, which must have exactly these names and shapes.

    Raises:
        ValueError: lists the names that are missing, unknown, or of another shape; the model is
            then unchanged.
    """
    own = model.state_dict()
    shapes = [
        f"{name} (expected {tuple(own[name].shape)}, got {tuple(state[name].shape)})"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    problems = {
        "missing": [name for name in own if name not in state],
        "unknown": [name for name in state if name not in own],
        "of another shape": shapes,
    }
    found = "; ".join(f"{kind}: {_shorten(names)}" for kind, names in problems.items() if names)
    if found:
        raise ValueError(f"the weights don't fit into {type(model).__name__}: {found}")
    model.load_state_dict(dict(state))


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, weights_only=True, map_location="cpu")


def _find_state(content: Any) -> dict[str, Tensor] | None:
    """The state dict in what a file holds, or None."""
    if not isinstance(content, Mapping) or not content:
        return None
    if all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        return dict(content)
    for nest in NESTS:
        found = _find_state(content.get(nest))
        if found is not None:
            return found
    return None


def _describe(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dict with the keys {_shorten([str(key) for key in content]) or '(none)'}"
    return f"a {type(content).__name__}"


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _first_line(error: Exception) -> str:
    # PyTorch's messages go on to advise loading the file unsafely.
    first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return first_line.split(". ")[0]
