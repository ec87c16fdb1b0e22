"""What was found on a plain copy, back in a network like the one that was given."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from awm_defense.networks.masked import key_of
from awm_defense.networks.plain import plain_copy
from awm_defense.networks.wrappers import wrapped_like


@torch.no_grad()
def with_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A plain copy of `model` in its wrappers, devices and dtypes, its weights m ⊙ θ.

    Args:
        model: stays as it is.
        masks: by `key_of` the parameter's name, in its shape.
    """
    purified = plain_copy(model)
    for name, parameter in purified.named_parameters():
        mask = masks.get(key_of(name))
        if mask is not None:
            # In float32 at least: a mask rounded to half precision first would round twice.
            parameter.copy_(mask.to(parameter.device) * parameter)
    return wrapped_like(model, purified)


@torch.no_grad()
def with_state(model: nn.Module, work: nn.Module) -> nn.Module:
    """A plain copy of `model` in its wrappers, devices and dtypes, with the values of `work`.

    Args:
        model: stays as it is.
        work: a plain copy of it that was changed, anywhere and in any dtype.
    """
    purified = plain_copy(model)
    purified.load_state_dict(work.state_dict())
    return wrapped_like(model, purified)
