"""Wrappers around a network that compute the same."""

from typing import Any

from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside `DataParallel`, `DistributedDataParallel` and `torch.compile`."""
    while True:
        if isinstance(model, OptimizedModule):
            model = model._orig_mod
        elif isinstance(model, nn.DataParallel | DistributedDataParallel):
            model = model.module
        else:
            return model


def wrapped_like(model: nn.Module, inner: nn.Module) -> nn.Module:
    """`inner` in the wrappers of `model`; without `DistributedDataParallel` where it has no
    parameter to train, as that refuses such a network."""
    if isinstance(model, OptimizedModule):
        return OptimizedModule(wrapped_like(model._orig_mod, inner), model.dynamo_ctx)
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
