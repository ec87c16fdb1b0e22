"""Families of universal triggers: what is looked for in a network, and what masks undo."""

from torch import Tensor

from awm_defense.triggers.faint import Faint
from awm_defense.triggers.family import Family
from awm_defense.triggers.sparse import Sparse
from awm_defense.triggers.warp import Warp

__all__ = ["Faint", "Family", "Sparse", "Warp", "families", "family_of"]


def families(images: Tensor) -> list[Family]:
    """Those there are, for images (n,c,h,w) of this size, in the order to look for them in."""
    return [Warp(images), Sparse(images), Faint(images)]


def family_of(unit: str, images: Tensor) -> Family:
    """The family whose norm is in `unit`, for images (n,c,h,w) of this size."""
    return next(family for family in families(images) if family.unit == unit)
