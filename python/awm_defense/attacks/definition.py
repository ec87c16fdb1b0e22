"""What each kind of attack is made of."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from awm_defense.attacks.attack import Attack, Trigger


@dataclass(frozen=True)
class Definition:
    """A kind of attack; every file of one defines its own, called DEFINITION.

    Attributes:
        source: the paper.
        poison_rate: share of the training images that the AWM paper poisons.
        craft: makes the trigger from a few clean training images (n,3,H,W) in [0,1], a clean
            network (None where none is needed) and a CPU generator.
        needs_model: whether `craft` or the poisoning needs a clean network.
        mode: how a given trigger image is put on (see `ImageTrigger`); None where the trigger is
            no image to be given.
        all_to_all: whether the attack has such a form.
        attack: its class, which says how training data is poisoned.
    """

    source: str
    poison_rate: float
    craft: Callable[[Tensor, nn.Module | None, torch.Generator], Trigger]
    needs_model: bool = False
    mode: str | None = None
    all_to_all: bool = True
    attack: type[Attack] = Attack
