"""The methods that the AWM paper compares, by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from awm_defense.lookup import look_up
from awm_defense.registry import get_settings
from awm_defense.settings import Settings


@dataclass(frozen=True)
class Method:
    """One way to treat a network.

    Attributes:
        title: what tables call it.
        recipe: name of the recipe; empty for the network as it is.
        options: settings of the recipe, as `Settings.with_options` takes them.
        study: a key of `STUDIES`, what is done with the recipe.
    """

    title: str
    recipe: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    study: str = "purified"


# The AWM paper doesn't give ANP's settings. With those of ANP's authors, who had ResNet-18s, the
# small VGG mostly loses far more accuracy than in its tables. These were chosen on BadNets with 500
# images, by test accuracy and ASR.
ANP = {"eps": "0.2", "steps": "200", "max_drop": "25"}

METHODS = {
    "none": Method("Origin", study="origin"),
    "anp": Method("ANP", "anp", ANP),
    "ibau": Method("IBAU", "ibau"),
    "awm": Method("AWM", "official"),
    "paper": Method("AWM, Algorithm 1", "paper"),
    "default": Method("AWM, our recipe", "default"),
    "finetune": Method("Fine-tuning", "finetune"),
    "fineprune": Method("Fine-Pruning", "fine-pruning"),
    "clp": Method("CLP", "clp"),
    "anp_swm": Method("ANP+SWM", "anp-swm"),
    "anp_swm_atr": Method("ANP+SWM+ATR", "official", {"gamma": "0"}),
    "no_clip": Method("No Clip", "official", {"tau": "inf"}),
    "no_shrink": Method("No Shrink", "official", {"gamma": "0"}),
    "nc_ns": Method("NC-NS", "official", {"tau": "inf", "gamma": "0"}),
    "l2_reg": Method("L2 Reg", "official", {"trigger_l2": "0.001"}),
    "l2_reg_nc": Method("L2 Reg NC", "official", {"trigger_l2": "0.001", "tau": "inf"}),
    "anp_perturbed": Method("ANP's perturbed neurons", "anp", ANP, study="perturbed"),
    "anp_thresholds": Method("ANP by threshold", "anp", ANP, study="thresholds"),
}


def with_settings(method: str, settings: Mapping[str, object]) -> str:
    """The name of a method with other settings, as in "awm+tau=100"."""
    return "+".join([method, *(f"{key}={value}" for key, value in settings.items())])


def get_method(name: str, *, flip: bool = True) -> tuple[Method, Settings | None]:
    """The method of that name, settings included, and its recipe.

    `flip` says whether mirrored images still show their class.

    Raises:
        ValueError: there is no such method, or its recipe takes no such setting.
    """
    base, *settings = name.split("+")
    method = look_up("method", base, METHODS)
    if not method.recipe:
        return method, None
    options = dict(method.options)
    for setting in settings:
        key, _, value = setting.partition("=")
        options[key] = value
    return method, get_settings(method.recipe).for_images(flip=flip).with_options(options)
