"""What enters the last layer of a classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def head(module: nn.Module, run: Callable[[], Tensor]) -> str | None:
    """Name of the linear layer whose output the network returns; None if there is no such layer.

    Args:
        module: the network.
        run: calls it, and returns its logits as they are.
    """
    made: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, args, output: made.update({name: output})

    linear = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.Linear)]
    hooks = [layer.register_forward_hook(keep(name)) for name, layer in linear]
    try:
        logits = run()
    finally:
        for hook in hooks:
            hook.remove()
    return next((name for name, output in made.items() if output is logits), None)


def reach(weight: Tensor) -> Tensor:
    """Half the squared change of logits that features make which move by 1 in some direction.

    On the mean of all directions, and less what all logits have in common, which no softmax sees.

    Args:
        weight: of the layer that features enter, (classes, width).
    """
    own = weight.detach().float()
    own = own - own.mean(0)
    return own.square().sum() / (2 * own.shape[1])


class Entering:
    """Remembers what entered a layer when it was last called."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.seen: Tensor | None = None
        layer.register_forward_pre_hook(self._see)

    def _see(self, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        (self.seen,) = args

    def take(self) -> Tensor:
        """What entered, (n, width); it is forgotten."""
        seen, self.seen = self.seen, None
        assert seen is not None
        return seen
