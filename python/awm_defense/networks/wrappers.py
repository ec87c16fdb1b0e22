"""Wrappers around a network that compute the same."""

import sys
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside `DataParallel`, `DistributedDataParallel` and `torch.compile`."""
    while True:
        if _is_compiled(model):
            inner: Any = model._orig_mod
            model = inner
        elif isinstance(model, nn.DataParallel | DistributedDataParallel):
            model = model.module
        else:
            return model


def wrapped_like(model: nn.Module, inner: nn.Module) -> nn.Module:
    """`inner` in the wrappers of `model`; without `DistributedDataParallel` where it has no
    parameter to train, as that refuses such a network."""
    if _is_compiled(model):
        compiled: Any = model
        return type(compiled)(wrapped_like(compiled._orig_mod, inner), compiled.dynamo_ctx)
    if isinstance(model, nn.DataParallel):
        found: Any = wrapped_like(model.module, inner)
        # On a machine without a GPU there are no devices, and the wrapper only passes on.
        return nn.DataParallel(found, getattr(model, "device_ids", None) or None)
    if isinstance(model, DistributedDataParallel):
        found = wrapped_like(model.module, inner)
        if not any(parameter.requires_grad for parameter in found.parameters()):
            return found
        return DistributedDataParallel(
            found, device_ids=model.device_ids, process_group=model.process_group
        )
    return inner


def _is_compiled(model: nn.Module) -> bool:
    # Whoever has compiled a model has loaded this; loading it makes a folder.
    dynamo: Any = sys.modules.get("torch._dynamo")
    return dynamo is not None and isinstance(model, dynamo.OptimizedModule)
