"""Logits, wherever a network's output holds them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from awm_defense.files.text import sentence
from awm_defense.portions import is_of_memory

Pick = Callable[[Any], Tensor]
NAMES = ("logits", "output", "out", "pred", "preds", "prediction", "predictions")


class Reading(nn.Module):
    """How a network's output is read as logits (n, classes).

    Args:
        pick: from the output to logits; None looks for them: the output itself, its `logits`, or
            the first matrix in a tuple or a dictionary.

    Raises:
        TypeError: `pick` is no function.

    Attributes:
        binary: whether the one logit is the second of two classes, of which the first has 0.
        log: whether the output holds probabilities, of which the logarithm is taken.
    """

    def __init__(self, pick: Pick | None = None) -> None:
        if pick is not None and not callable(pick):
            raise TypeError(f"logits: expected a function or None, got {type(pick).__name__}")
        super().__init__()
        self.pick = pick
        self.binary = self.log = False

    def forward(self, output: Any) -> Tensor:
        """Logits (n, classes) of what a network returned.

        Raises:
            TypeError, ValueError: it has none.
        """
        found = _find(output) if self.pick is None else _picked(self.pick, output)
        if not isinstance(found, Tensor) or found.dim() != 2:
            kind = ValueError if isinstance(found, Tensor) else TypeError
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            if self.pick is not None:
                raise kind(f"logits: expected a function to logits (n, classes), got one to {got}")
            raise kind(
                f"model: expected logits (n, classes), got {got}; let its forward return them, or "
                "give `logits=` a function from what it returns to them"
            )
        if self.binary:
            return torch.cat([torch.zeros_like(found), found], 1)
        if self.log:
            return found.clamp(min=torch.finfo(found.dtype).tiny).log()
        return found

    def settle(self, output: Any) -> list[str]:
        """Look at a first output: whether it has one logit, or probabilities. Returns notes."""
        found: Tensor = self(output)
        if found.shape[1] == 1:
            self.binary = True
            return ["the one logit is taken for that of class 1 of two, against 0 for class 0"]
        sums = found.sum(1)
        if (found >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
            self.log = True
            return ["the model returns probabilities; their logarithm is taken for logits"]
        return []


def _find(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output
    items: Any = output
    if isinstance(output, Mapping):
        for name in NAMES:
            if isinstance(output.get(name), Tensor):
                return output[name]
        items = tuple(output.values())
    elif isinstance(getattr(output, "logits", None), Tensor):
        return output.logits
    if isinstance(items, tuple | list):
        for item in items:
            if isinstance(item, Tensor) and item.dim() == 2:
                return item
    return output


def _picked(pick: Pick, output: Any) -> Any:
    try:
        return pick(output)
    except Exception as error:  # whatever its own code raises
        if is_of_memory(error):
            raise
        raise ValueError(
            f"logits: expected a function from what the model returns, {type(output).__name__}, "
            f"to logits; it failed: {type(error).__name__}: {sentence(error)}"
        ) from error
