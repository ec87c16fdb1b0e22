"""What a purification does, as data: the paper's algorithm, the authors' code, and ours."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from awm_defense.data.augment import ONE_SHOT_COPIES, ONE_SHOT_SCALE
from awm_defense.lookup import look_up
from awm_defense.networks.masked import LAYERS
from awm_defense.settings import Settings


@dataclass(frozen=True, kw_only=True)
class _Search:
    """How triggers are looked for."""

    examine: bool = False
    """Whether to look for a backdoor first, and leave a network that looks clean as it is."""
    tau: float | None = None
    """L1 bound τ of the trigger Δ, in units of pixel values in [0, 1]; inf for none."""
    tau_share: float | None = None
    """τ as a share of the number of values of an image, for recipes that leave `tau` None."""
    trigger_lr: float = 10.0
    """η₁, plain gradient ascent."""
    trigger_l2: float = 0.0
    """Weight of ‖Δ‖₂², which the trigger keeps small besides ("L2 Reg" of the AWM paper)."""
    trigger_targets: Literal["labels", "predictions", "original"] = "labels"
    """What Δ leads away from: true labels, the masked network's own argmax, or the original
    network's softmax."""
    grown: int = 0
    """Triggers that are grown from the one that `examine` found, to be masked away beside Δ."""
    search_again: bool = False
    """Whether before each further epoch under grown triggers one is sought anew, on the network as
    masked so far, and grown in place of half of the former ones."""


@dataclass(frozen=True, kw_only=True)
class _Masks:
    """How masks are learnt."""

    epochs: int = 20
    """Outer iterations E."""
    inner_epochs: int = 5
    """An epoch has this many steps for each full batch of the images; with fresh augmentation, for
    three batches, however many images there are."""
    batch_size: int | None = None
    """Images a step, b; at most the number of images there are, or with fresh augmentation 10,000
    if that is more."""
    alpha: float | None = None
    """Weight α of the clean loss."""
    beta: float | None = None
    """Weight β of the loss under the trigger; None is 1 − α."""
    gamma: float = 1e-8
    """Weight γ of ‖m‖₁."""
    clip_mask_phase: bool = True
    """Whether x + Δ is clipped to [0, 1] while the mask is learned."""
    layers: str = "all"
    """Which weights are masked: "conv", of convolutions; "linear", every other matrix that
    transforms features; "all", both; "auto", convolutions where these hold most weights, otherwise
    all; or patterns of parameters' names, like "blocks.*.weight,head.weight"."""
    mask_optimizer: Literal["adam", "sgd"] = "adam"
    mask_lr: float | None = 1e-2
    """η₂ in the first epoch."""
    mask_lr_share: float | None = None
    """η₂ times the square root of a layer's inputs, for recipes that leave `mask_lr` None: masks
    that all move one way change an output by as much."""
    mask_lr_decay: float = 1.0
    """η₂ is multiplied by this after every epoch."""
    natural_step: float | None = None
    """Where it is a number, epochs under grown triggers go down the natural gradient
    (`awm_defense.awm.natural`), with momentum, instead of by the mask optimiser: through the
    weights that predictions on clean images depend on the least. The first step changes masks by
    this times η₂ on the mean of all. Only where most masks are of convolutions: the diagonal knows
    nothing of weights that work in concert, as those of attention and of wide linear layers do."""


@dataclass(frozen=True, kw_only=True)
class _Augmentation:
    """What is made of the few images."""

    copies: int = ONE_SHOT_COPIES
    """Fixed augmented copies of each image, made when there is at most one image a class."""
    fresh_augmentation: bool = False
    """Augment anew in every step instead."""
    crop_scale: float = ONE_SHOT_SCALE
    """Smallest share of the area that a random resized crop keeps."""
    cutmix: float = 0.0
    """The share of freshly augmented images that get a patch of another."""
    jitter: float = 0.0
    """By how much contrast and colours of freshly augmented images change, from 1 to 1 ± this."""
    flip: bool = True
    """Random horizontal flips in augmentation (wrong for digits and letters, say)."""


@dataclass(frozen=True, kw_only=True)
class _Recovery:
    """How the network keeps what it could."""

    mask_targets: Literal["labels", "original"] = "labels"
    """What the masked network is held to: true labels, or the original network's softmax."""
    temperature: float = 1.0
    """What logits are divided by before both softmaxes, where masks are held to the original's."""
    trigger_epochs: int | None = None
    """Epochs under Δ and the grown triggers, where there are any; after them masks recover on clean
    images alone. None: all are under triggers."""


@dataclass(frozen=True, kw_only=True)
class Recipe(_Recovery, _Augmentation, _Masks, _Search, Settings):
    """Hyper-parameters of Adversarial Weight Masking (AWM paper, Eq. 4.4 and Algorithm 1).

    Fields that are None take `SIZE_DEPENDENT`'s value for the number of images at hand; the
    recipe a result carries has them filled in.
    """

    least: ClassVar[dict[str, float]] = {
        **dict.fromkeys(("grown", "copies"), 0),
        **dict.fromkeys(("epochs", "trigger_epochs", "inner_epochs", "batch_size"), 1),
        **dict.fromkeys(("tau", "tau_share", "trigger_lr", "trigger_l2"), 0),
        **dict.fromkeys(("alpha", "beta", "gamma"), 0),
        **dict.fromkeys(("mask_lr", "mask_lr_share", "mask_lr_decay", "natural_step"), 0),
    }

    def resolve(self, images: int, classes: int, values: int) -> Self:
        """A copy with every None filled in but `mask_lr`, which `for_layers` fills in.

        Args:
            images: how many there are.
            classes: of how many classes.
            values: of one image, c·h·w.
        """
        sized = dict(SIZE_DEPENDENT["one-shot" if images <= classes else "more"])
        if self.tau_share is not None:
            sized["tau"] = self.tau_share * values
        if self.fresh_augmentation:  # no published recipe has this: one image more is no leap here
            sized["batch_size"] = min(LARGE_BATCH, ONE_SHOT_BATCH + 3 * max(0, images - classes))
        made: dict[str, Any] = {k: v for k, v in sized.items() if getattr(self, k) is None}
        recipe = dataclasses.replace(self, **made)
        if recipe.beta is None and recipe.alpha is not None:
            recipe = dataclasses.replace(recipe, beta=1 - recipe.alpha)
        return recipe

    def for_layers(self, inputs: float, convolutions: float) -> Self:
        """A copy for what is masked: `mask_lr` filled in, and `natural_step` where it serves.

        Args:
            inputs: of an output, on the mean of all masked weights.
            convolutions: the share of these that is of convolutions.
        """
        made: dict[str, Any] = {}
        if self.mask_lr is None and self.mask_lr_share is not None:
            made["mask_lr"] = self.mask_lr_share / inputs**0.5
        if convolutions < 0.5:
            made["natural_step"] = None
        return dataclasses.replace(self, **made)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layers.strip():
            raise ValueError(
                f"layers: expected one of {', '.join(LAYERS)} or patterns of parameters' names, "
                f"got {self.layers!r}"
            )
        if self.beta is None and self.alpha is not None and self.alpha > 1:
            raise ValueError(f"alpha: expected a number ≤ 1 (β is 1 − α), got {self.alpha}")
        for key in ("cutmix", "jitter"):
            value = getattr(self, key)
            if not 0 <= value <= 1:
                raise ValueError(f"{key}: expected a number from 0 to 1, got {value}")
            if value and not self.fresh_augmentation:
                raise ValueError(f"{key}: expected 0 without fresh_augmentation, got {value}")
        if self.mask_lr is None and self.mask_lr_share is None:
            raise ValueError("mask_lr: expected a number where mask_lr_share is None, got None")
        if self.natural_step is not None and self.mask_optimizer != "adam":
            raise ValueError(
                "natural_step: expected none unless mask_optimizer is 'adam', "
                f"got {self.natural_step}"
            )
        if not self.temperature > 0 or (self.temperature != 1 and self.mask_targets != "original"):
            raise ValueError(
                "temperature: expected a number > 0, and 1 unless mask_targets is 'original', "
                f"got {self.temperature}"
            )
        if not 0 < self.crop_scale <= 1:
            raise ValueError(f"crop_scale: expected a number in (0, 1], got {self.crop_scale}")


# Defaults of the authors' released code; its README gives the one-shot values.
ONE_SHOT_BATCH, LARGE_BATCH = 32, 128
SIZE_DEPENDENT: dict[str, dict[str, float | int]] = {
    "one-shot": {"batch_size": ONE_SHOT_BATCH, "tau": 100.0, "alpha": 0.99},
    "more": {"batch_size": LARGE_BATCH, "tau": 1000.0, "alpha": 0.9},
}

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        # Algorithm 1, with the signs of Eq. 4.4. The paper leaves the step sizes open.
        Recipe(name="paper", mask_optimizer="sgd", mask_lr=1.0, clip_mask_phase=False),
        # What the authors' released code does.
        Recipe(name="official", layers="conv", trigger_targets="predictions", mask_lr_decay=0.9),
        # Ours; docs/how-default-works.md has what it was chosen on.
        Recipe(
            name="default",
            examine=True,
            grown=20,
            trigger_epochs=2,
            search_again=True,
            natural_step=0.5,
            epochs=10,
            tau_share=0.01,
            alpha=0.9,
            layers="auto",
            trigger_targets="original",
            mask_targets="original",
            temperature=5.0,
            mask_lr=None,
            mask_lr_share=0.58,
            mask_lr_decay=0.8,
            copies=0,
            fresh_augmentation=True,
            crop_scale=0.3,
            cutmix=0.5,
            jitter=0.4,
        ),
    )
}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: there is none; lists those there are.
    """
    return look_up("recipe", name, RECIPES)
