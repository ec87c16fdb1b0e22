"""Erase backdoors from neural networks by Adversarial Weight Masking."""

from awm_defense.precision import Precision
from awm_defense.purify import PurifyResult, purify, purify_many
from awm_defense.recipes import RECIPES, Recipe, get_recipe

__all__ = [
    "RECIPES",
    "Precision",
    "PurifyResult",
    "Recipe",
    "get_recipe",
    "purify",
    "purify_many",
]
