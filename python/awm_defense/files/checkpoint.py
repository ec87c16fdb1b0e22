"""Reading and writing weights. A checkpoint is data: nothing in it is ever executed."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from awm_defense.files.atomic import write_bytes
from awm_defense.files.door import CHUNK, MIB, OpenFile, open_file
from awm_defense.files.safetensors_file import is_safetensors, read_safetensors
from awm_defense.files.tensors import LONGEST_NAME, Planned
from awm_defense.files.text import PATH, sentence, shown
from awm_defense.files.torch_file import Other, fetch, fill_in, is_torch, open_torch, plans_in

LIMIT = 8192 * MIB
# Where training scripts put the state dict in what they save.
NESTS = ("net", "model", "state_dict", "model_state_dict", "netC", "network", "model_state")
# Averages of the weights over training; looked at where none of the above is there.
AVERAGES = ("ema", "model_ema", "state_dict_ema", "ema_state_dict")
NEST_DEPTH = 8
# What nn.DataParallel and torch.compile put before each key.
WRAPPERS = ("module.", "_orig_mod.")
# How many keys an error message lists.
SHOWN = 5
# The end of a BatchNorm's buffer that can't be negative.
VARIANCE = "running_var"

State = dict[str, Any]


class Misfit(ValueError):
    """Weights that a model has no place for."""


class Weights(dict[str, Tensor]):
    """Named tensors that know their file, so that what doesn't fit can be told with its name."""

    def __init__(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        super().__init__(tensors)
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as any state dict is, so that others can read what is saved of it."""
        return OrderedDict, (), None, None, iter(self.items())


def load_state_dict(path: Path, *, limit: int = LIMIT) -> Weights:
    """Read the weights in a file, to the CPU.

    Args:
        path: safetensors, or what `torch.save` wrote: a state dict, at the top or under one of
            `NESTS`, or else of `AVERAGES`. The content decides which it is, not the name. What
            `torch.save` wrote is read by a process of its own, with limits, that runs no code.
        limit: bytes that the file may have.

    Returns:
        Parameter and buffer names to tensors; a "module." or "_orig_mod." before every
        name is taken off.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it can't be read safely, or holds no state dict or several.
    """
    path = Path(path)
    name = shown(path, PATH)
    with open_file(path, limit) as file:
        try:
            found, content = _read(file)
        except Exception as error:  # a broken or hostile file can fail in any way
            raise ValueError(
                f"{name}: can't be read as weights alone: {sentence(error)}"
            ) from error
    if len(found) > 1:
        raise ValueError(
            f"{name}: expected one state dict, got several that differ, under "
            f"{' and '.join(found)}; save the one that is meant"
        )
    if not found:
        raise ValueError(
            f"{name}: expected a state dict at the top or under {', '.join(NESTS)}, "
            f"got {_describe(content)}"
        )
    (state,) = found.values()
    return Weights(_unwrap(state), path)


def load_saved(path: Path, *, limit: int = LIMIT) -> Any:
    """All that `torch.save` wrote: containers, numbers, text, and tensors on the CPU.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it can't be read safely.
    """
    with open_file(path, limit) as file:
        try:
            source = _open(file)
            return fill_in(source.content, fetch(source, plans_in(source.content)))
        except Exception as error:  # a broken or hostile file can fail in any way
            raise ValueError(f"{shown(path, PATH)}: can't be read: {sentence(error)}") from error


def describe_saved(path: Path, *, limit: int = LIMIT) -> Any:
    """As `load_saved`, but what stands for a tensor has no numbers; None for another format.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it can't be read safely.
    """
    with open_file(path, limit) as file:
        try:
            known = is_torch(bytes(file.part(0, min(file.size, 32))))
            return open_torch(file).content if known else None
        except Exception as error:  # a broken or hostile file can fail in any way
            raise ValueError(f"{shown(path, PATH)}: can't be read: {sentence(error)}") from error


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
    digest = hashlib.sha256()
    with open_file(path, LIMIT) as file:
        while part := file.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()


def load_into(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy weights into a model, which must have exactly these names and shapes.

    One prefix before all names, such as "model.", is taken off where the model has none.

    Raises:
        Misfit: a ValueError that lists the names that are missing, unknown, of another shape or
            type, not finite, or negative variances of a BatchNorm; the model is then unchanged.
    """
    own = model.state_dict()
    state = without_prefix(state, own)
    both = {name: (own[name], state[name]) for name in own if name in state}
    fitting = {name: pair for name, pair in both.items() if pair[0].shape == pair[1].shape}
    floats = {name: given for name, (_, given) in fitting.items() if given.is_floating_point()}
    problems = {
        "missing": [name for name in own if name not in state],
        "unknown": [name for name in state if name not in own],
        "of another shape": [
            f"{name} (expected {tuple(mine.shape)}, got {tuple(given.shape)})"
            for name, (mine, given) in both.items()
            if name not in fitting
        ],
        "of another type": [
            f"{name} (expected {_type(mine)}, got {_type(given)})"
            for name, (mine, given) in fitting.items()
            if not _can_become(given, mine)
        ],
        "with NaN or infinite values": [
            name for name, given in floats.items() if not bool(_known(given).isfinite().all())
        ],
        "negative": [
            name
            for name, given in floats.items()
            if name.endswith(VARIANCE) and bool((_known(given) < 0).any())
        ],
    }
    found = "; ".join(f"{kind}: {_shorten(names)}" for kind, names in problems.items() if names)
    if found:
        file = f"{shown(state.path, PATH)}: " if isinstance(state, Weights) else ""
        raise Misfit(f"{file}the weights don't fit into {type(model).__name__}: {found}")
    model.load_state_dict(dict(state))


def without_prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Weights by the names that a model has, where theirs have one prefix more."""
    first = next(iter(own), "")
    prefixes = [name.removesuffix(first) for name in state if name.endswith(f".{first}")]
    if first in state or len(prefixes) != 1:
        return state
    found = {name.removeprefix(prefixes[0]): value for name, value in state.items()}
    if len(found) < len(state):
        return state
    return Weights(found, state.path) if isinstance(state, Weights) else found


def _known(given: Tensor) -> Tensor:
    """Floating point in a type of which all operations are known; of eight bits few are."""
    return given.float() if given.itemsize == 1 else given


def _can_become(given: Tensor, own: Tensor) -> bool:
    """Whether a value of a file's type can stand where the model has a type of its own."""
    if own.is_floating_point():
        return given.is_floating_point()
    # A counter of steps is a float where a script has turned all values into half precision.
    return not given.is_complex() and (given.dtype == torch.bool) == (own.dtype == torch.bool)


def _type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _open(file: OpenFile) -> Any:
    head = bytes(file.part(0, min(file.size, 32)))
    if not is_torch(head):
        raise ValueError(_unknown(head))
    return open_torch(file)


def _read(file: OpenFile) -> tuple[dict[str, State], Any]:
    """The state dicts in a file, by where they stand, and all else that it holds."""
    head = bytes(file.part(0, min(file.size, 32)))
    if is_safetensors(head):
        state = read_safetensors(file)
        return ({"the top": state} if state else {}), state
    source = _open(file)
    content = source.content
    found = _find_states(content)
    if len(found) == 1:
        ((place, plans),) = found.items()
        if any(len(name) > LONGEST_NAME for name in plans):
            raise ValueError("it holds a name of more characters than a module has")
        tensors = fetch(source, plans.values())
        found = {place: {name: tensors[planned] for name, planned in plans.items()}}
    return found, content


def _unknown(head: bytes) -> str:
    if head[:1] == b"\x80":
        return "it is a pickle, but torch.save did not write it"
    return f"expected safetensors or a file of torch.save, got one that begins with {head[:8]!r}"


def _find_states(content: Any, place: str = "the top", depth: int = 0) -> dict[str, State]:
    """The state dicts in what was saved, by where they stand; those that are the same once.

    Of many that differ some: to compare all takes time by the square of their number.
    """
    if not isinstance(content, dict) or not content or depth > NEST_DEPTH:
        return {}
    if all(isinstance(k, str) and isinstance(v, Planned) for k, v in content.items()):
        return {place: content}
    found: dict[str, State] = {}
    for nests in (NESTS, AVERAGES):
        for nest in () if found else nests:
            for inner, state in _find_states(content.get(nest), nest, depth + 1).items():
                if state not in found.values():
                    found[inner if inner == nest else f"{nest}.{inner}"] = state
            if len(found) > 1:
                return found
    return found


def _unwrap(state: State) -> dict[str, Tensor]:
    # What the first and the last name begin with, all names do.
    first, last = min(state), max(state)
    wrapped = 0
    while wrapper := next(
        (w for w in WRAPPERS if first.startswith(w, wrapped) and last.startswith(w, wrapped)), None
    ):
        wrapped += len(wrapper)
    return {name[wrapped:]: value for name, value in state.items()}


def _describe(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dict with the keys {_shorten([str(key) for key in content]) or '(none)'}"
    if isinstance(content, Other):
        return f"a {content.kind}"
    return "a Tensor" if isinstance(content, Planned) else f"a {type(content).__name__}"


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(shown(name) for name in names[:SHOWN]) + more
