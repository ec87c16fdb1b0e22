"""Which arithmetic and which memory layout a network trains fastest in."""

import copy
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from awm_defense.networks.logits import Reading

# Steps that are timed, after one that is not; the fastest counts.
REPEATS = 2


@dataclass(frozen=True)
class Compute:
    """Arithmetic and layout of the forward and backward pass; weights stay float32.

    Attributes:
        bf16: bfloat16 where autocast allows it, float32 elsewhere.
        channels_last: (N,H,W,C) in memory for images and convolutions' weights.
    """

    bf16: bool = False
    channels_last: bool = True

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout, as PyTorch calls it."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def prepare(self, model: nn.Module, device: torch.device) -> None:
        """Move a model to the device and lay out its weights, in place."""
        use_layout(model.to(device), self.memory_format)

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """The context for the forward pass."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16)


def use_layout(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Lay out a model's images, and weights like images, in place: all tensors of rank 4."""
    for value in (*model.parameters(), *model.buffers()):
        if value.dim() == 4:
            value.data = value.data.contiguous(memory_format=memory_format)


def fastest(
    model: nn.Module,
    images: Tensor,
    device: torch.device,
    *,
    read: Reading | None = None,
    channels_last: bool = True,
) -> Compute:
    """On a GPU bfloat16 and channels_last; on a CPU the fastest of all four, by measurement.

    Args:
        model: any classifier; stays as it is.
        images: (N,C,H,W) floating point, the batch to measure with.
        device: where training will run.
        read: from what the model returns to logits.
        channels_last: whether the model takes images in that layout.
    """
    if device.type == "cuda":
        return Compute(torch.cuda.is_bf16_supported(), channels_last)
    layouts = (False, True) if channels_last else (False,)
    choices = [Compute(bf16, last) for bf16 in (False, True) for last in layouts]
    return min(
        choices, key=lambda choice: _seconds(model, images, device, choice, read or Reading())
    )


def _seconds(
    model: nn.Module,
    images: Tensor,
    device: torch.device,
    compute: Compute,
    read: Reading,
) -> float:
    """Of one forward and backward pass."""
    trial = copy.deepcopy(model).train().requires_grad_(True)
    compute.prepare(trial, device)
    batch = images.to(device).contiguous(memory_format=compute.memory_format)
    labels = torch.zeros(len(batch), dtype=torch.int64, device=device)
    times = []
    with torch.random.fork_rng([]):  # dropout draws
        for _ in range(1 + REPEATS):
            start = time.perf_counter()
            with compute.autocast(device):
                loss = F.cross_entropy(read(trial(batch)), labels)
            loss.backward()
            times.append(time.perf_counter() - start)
    return min(times[1:])
