"""Erase backdoors from neural networks by Adversarial Weight Masking."""

# As type checkers take it; to import `typing` takes longer than all else that `awm` begins with.
TYPE_CHECKING = False

if TYPE_CHECKING:
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
# At first use: PyTorch takes seconds, in which Ctrl-C must end the command `awm` in one line.
_MODULES = {
    "awm.recipe": ("RECIPES", "Recipe", "get_recipe"),
    "baselines": ("BASELINES",),
    "examination.examine": ("examine",),
    "examination.verdict": ("Verdict",),
    "purification": ("purify", "purify_many"),
    "registry": ("get_settings",),
    "result": ("PurifyResult",),
    "synthesis": ("synthesize",),
    "working.precision": ("Precision",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __dir__() -> list[str]:
    return [*globals(), *__all__]


if not TYPE_CHECKING:  # a type checker would take any name for one that there is

    def __getattr__(name):
        from importlib import import_module

        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
