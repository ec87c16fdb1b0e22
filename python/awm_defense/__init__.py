"""Erase backdoors from neural networks by Adversarial Weight Masking."""

from awm_defense.purify import PurifyResult, purify
from awm_defense.recipes import RECIPES, Recipe, get_recipe

__all__ = ["RECIPES", "PurifyResult", "Recipe", "get_recipe", "purify"]
