"""Erase backdoors from neural networks by Adversarial Weight Masking."""

from awm_defense.defenses import BASELINES
from awm_defense.examine import examine
from awm_defense.precision import Precision
from awm_defense.purify import purify, purify_many
from awm_defense.recipes import RECIPES, Recipe, get_recipe, get_settings
from awm_defense.result import PurifyResult
from awm_defense.synthesize import synthesize
from awm_defense.verdict import Verdict

__all__ = [
    "BASELINES",
    "RECIPES",
    "Precision",
    "PurifyResult",
    "Recipe",
    "Verdict",
    "examine",
    "get_recipe",
    "get_settings",
    "purify",
    "purify_many",
    "synthesize",
]
