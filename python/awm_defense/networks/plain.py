"""Copies of networks in which every weight is a plain parameter."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from awm_defense.networks.wrappers import unwrapped


def check_model(model: nn.Module) -> None:
    """Raises TypeError or ValueError, naming `model`, unless it is a network with its weights."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {_described(model)}")
    # Not buffers: an attention mask may well hold -inf.
    for name, value in model.named_parameters():
        if isinstance(value, UninitializedParameter):
            raise ValueError(
                f"model: expected weights, got a lazy layer that has none yet ({name}); "
                "run the model on an image first"
            )
        if type(value.data) is not Tensor:
            raise TypeError(
                f"model: expected plain tensors, got {type(value.data).__name__} ({name}); "
                "sharded and quantised weights can't be masked"
            )
        if value.is_meta:
            raise ValueError(
                f"model: expected weights, got none: {name} is on the meta device; load them first"
            )
        if not value.is_floating_point():
            raise TypeError(
                f"model: expected floating-point parameters, got {value.dtype} ({name})"
            )
        if not value.detach().isfinite().all():
            raise ValueError(f"model: expected finite values, got NaN or infinity in {name}")


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy without wrappers in which weights that are computed anew in every forward are plain.

    Those of `torch.nn.utils.parametrize`, of `weight_norm` and `spectral_norm`, old and new, and of
    `torch.nn.utils.prune`. Classes, modes, devices and dtypes are the model's.

    Raises:
        TypeError: the model can't be copied, or its weights can't be replaced.
    """
    inner = unwrapped(model)
    if isinstance(inner, torch.jit.ScriptModule):
        raise TypeError(
            "model: expected a network in Python, got TorchScript, whose weights can't be "
            "replaced; give the network that it was made from"
        )
    for module in inner.modules():
        if type(module).__module__.startswith(("torch.ao.nn.", "torch.nn.quantized")):
            raise TypeError(
                f"model: expected floating-point weights, got a quantised {type(module).__name__};"
                " give the network as it was before"
            )
    memo: dict[int, Any] = {}
    for module in inner.modules():
        _detach(vars(module), memo, set())
    try:
        copied = copy.deepcopy(inner, memo)
    except Exception as error:  # whatever the copied objects raise
        raise TypeError(
            f"model: expected one that copy.deepcopy copies, got {type(inner).__name__}: {error}"
        ) from error
    for module in list(copied.modules()):
        _make_plain(module)
    return copied


def whole_dtype(model: nn.Module) -> torch.dtype:
    """What to work in: float64 where a parameter is that, float32 otherwise."""
    found = {parameter.dtype for parameter in model.parameters()}
    return torch.float64 if torch.float64 in found else torch.float32


def _detach(value: Any, memo: dict[int, Any], seen: set[int]) -> None:
    """Notes for `copy.deepcopy`, which refuses results of autograd, what to take for those in
    attributes: weights as last computed, features that were kept."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        if value.grad_fn is not None:
            memo[id(value)] = value.detach().clone()
    elif isinstance(value, dict):
        for item in value.values():
            _detach(item, memo, seen)
    elif isinstance(value, list | tuple):
        for item in value:
            _detach(item, memo, seen)


def _make_plain(module: nn.Module) -> None:
    if parametrize.is_parametrized(module):
        _remove_parametrizations(module)
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)


@torch.no_grad()
def _remove_parametrizations(module: nn.Module) -> None:
    """`parametrize.remove_parametrizations` changes the class, which the copy's original shares."""
    parametrizations = module.parametrizations
    assert isinstance(parametrizations, nn.ModuleDict)
    parametrizations.eval()  # in training mode a spectral norm moves when it is read
    values = {name: getattr(module, name).clone() for name in parametrizations}
    trained = {name: any(True for _ in p.parameters()) for name, p in parametrizations.items()}
    module.__class__ = type(module).__bases__[0]
    del module.parametrizations
    for name, value in values.items():
        if trained[name]:
            module.register_parameter(name, nn.Parameter(value))
        else:
            module.register_buffer(name, value)


def _described(model: Any) -> str:
    """What came instead of a network, and what to do."""
    if isinstance(model, dict):
        return "a dict; load a state dict into a network first: network.load_state_dict(...)"
    if isinstance(model, torch.export.ExportedProgram):
        return "an ExportedProgram; its .module() is one"
    if callable(model) and not isinstance(model, type):
        return f"a {type(model).__name__}; give the network that it calls"
    return type(model).__name__
