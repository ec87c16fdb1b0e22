"""Erase backdoors from neural networks by Adversarial Weight Masking."""

from awm_defense.awm.recipe import RECIPES, Recipe, get_recipe
from awm_defense.baselines import BASELINES
from awm_defense.examination.examine import examine
from awm_defense.examination.verdict import Verdict
from awm_defense.purification import purify, purify_many
from awm_defense.registry import get_settings
from awm_defense.result import PurifyResult
from awm_defense.synthesis import synthesize
from awm_defense.working.precision import Precision

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
