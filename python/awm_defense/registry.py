"""Everything that has a name: recipes, rival defenses, attacks, models and data sets."""

from awm_defense.attacks import ATTACKS
from awm_defense.awm.recipe import RECIPES
from awm_defense.baselines import BASELINES
from awm_defense.data import DATASETS
from awm_defense.lookup import look_up
from awm_defense.models import MODELS
from awm_defense.settings import Settings

__all__ = ["ATTACKS", "BASELINES", "DATASETS", "MODELS", "RECIPES", "get_settings"]


def get_settings(name: str) -> Settings:
    """The recipe, or the rival defense, of that name.

    Raises:
        ValueError: there is none; lists those there are.
    """
    return look_up("recipe", name, {**RECIPES, **BASELINES})
