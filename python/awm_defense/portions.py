"""Images that go through a network in portions, where memory is too small for all at once."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")

# What PyTorch says, besides torch.OutOfMemoryError, where an allocation failed.
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


class Portions:
    """How many images go through a network at a time: as many as is set, until memory runs out.

    Attributes:
        most: images at a time, at most; None for no limit.
        ran_out: whether memory did.
        seen: the most that were given at once.
    """

    def __init__(self) -> None:
        self.most: int | None = None
        self.ran_out = False
        self.seen = 1

    def __call__(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """The network's result for images (n, ...), whose rows don't depend on each other.

        A portion's activations are freed, and computed again in the backward pass: the gradients
        are those of all at once, but for rounding, and time is a third longer.
        """
        self.seen = max(self.seen, len(images))
        if self.most is None or len(images) <= self.most:
            return network(images)
        parts = images.split(self.most)
        if not torch.is_grad_enabled():
            return torch.cat([network(part) for part in parts])
        return torch.cat(
            [
                checkpoint(network, part, use_reentrant=False, preserve_rng_state=False)
                for part in parts
            ]
        )

    def fit(self, work: Callable[[], Result]) -> Result:
        """What `work` returns, which is done anew with half of the images while memory runs out.

        Raises:
            RuntimeError: it runs out with one image at a time.
        """
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_of_memory(error):
                    raise
                self._halve()
            # After the error is gone, which held what the work had made.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _halve(self) -> None:
        at_once = self.seen if self.most is None else min(self.most, self.seen)
        if at_once == 1:
            raise RuntimeError(
                "memory: not enough for one image at a time; end other programs, take another "
                "device or a machine with more memory"
            )
        self.most, self.ran_out = at_once // 2, True

    def note(self) -> list[str]:
        """What is to be said of it."""
        if not self.ran_out:
            return []
        return [
            f"memory ran out: the network was given {self.most} images at a time instead of "
            f"{self.seen}, which takes longer; results are the same but for rounding"
        ]


def is_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
