"""How many images may go through a network at a time, so that they fit into memory."""

import copy
from math import inf

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from awm_defense.pixel_model import PixelModel
from awm_defense.settings import check_value

CPU_GIB = 6.0
"""What may be used of a CPU's memory, where nothing else is asked for."""
SHARE = 0.5
"""Of that, what images keep for the backward pass. The rest is for weights and what is passed on
meanwhile: a ResNet-50 at 224x224 keeps 82 MB an image, and takes 5.8 GiB for 40."""


def images_at_once(work: PixelModel, images: Tensor, max_memory: float | None) -> int:
    """How many images may go through a network at a time, at least one.

    Args:
        work: a copy of the network.
        images: (n ≥ 1,c,h,w) in [0,1].
        max_memory: GiB to stay within; None: 6 on a CPU, and what a GPU has.

    Raises:
        ValueError: `max_memory` is not above 0.
    """
    if max_memory is None:
        on_gpu = work.device.type == "cuda"
        max_memory = _gib_of(work.device) if on_gpu else CPU_GIB
    check_memory(max_memory)
    each = bytes_per_image(work, images[:1].to(work.device))
    return max(1, int(SHARE * max_memory * 2**30 / max(1, each)))


def check_memory(max_memory: float | None) -> None:
    """Raise TypeError or ValueError unless it is a number of GiB above 0, or None."""
    if max_memory is None:
        return
    check_value("max_memory", float, max_memory, -inf)
    if not max_memory > 0:
        raise ValueError(f"max_memory: expected a number of GiB > 0, got {max_memory}")


def bytes_per_image(pixel_model: PixelModel, image: Tensor) -> int:
    """What a backward pass keeps of each image, weights' gradients included.

    Of three images less of two: what is kept once, as weights are, does not count. Not of one
    alone, which some layers refuse.
    """
    trial = copy.copy(pixel_model)
    trial.model = copy.deepcopy(pixel_model.model).eval().requires_grad_()
    two, three = (_saved_bytes(trial, image.repeat(count, 1, 1, 1)) for count in (2, 3))
    return three - two


def _saved_bytes(pixel_model: PixelModel, images: Tensor) -> int:
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        # Detached: a result that its own node holds would never be freed.
        return tensor.detach()

    with saved_tensors_hooks(keep, lambda tensor: tensor), torch.enable_grad():
        held = pixel_model(images.detach().requires_grad_())
    # Until all is counted: what is freed could lie at the same place.
    del held
    return sum(sizes.values())


def _gib_of(device: torch.device) -> float:
    return torch.cuda.get_device_properties(device).total_memory / 2**30
