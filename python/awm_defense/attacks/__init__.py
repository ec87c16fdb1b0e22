"""Backdoor attacks: what their triggers do to an image, and how they poison training data."""

import torch
from torch import Tensor, nn

from awm_defense.attacks import badnets, blended, clean_label, l0_inv, l2_inv, trojan, wanet
from awm_defense.attacks.attack import Attack, Trigger
from awm_defense.attacks.definition import Definition
from awm_defense.attacks.image_trigger import MODES, ImageTrigger
from awm_defense.attacks.wanet import WarpTrigger
from awm_defense.lookup import look_up
from awm_defense.pixel_model import check_images
from awm_defense.settings import check_seed, check_value

__all__ = [
    "ATTACKS",
    "Attack",
    "Definition",
    "ImageTrigger",
    "WarpTrigger",
    "craft_attack",
    "make_attack",
    "with_model",
]

ATTACKS: dict[str, Definition] = {
    "badnets": badnets.DEFINITION,
    "blended": blended.DEFINITION,
    "clean_label": clean_label.DEFINITION,
    "l0_inv": l0_inv.DEFINITION,
    "l2_inv": l2_inv.DEFINITION,
    "trojan_sq": trojan.SQUARE,
    "trojan_wm": trojan.WATERMARK,
    "wanet": wanet.DEFINITION,
}
# Their triggers are made without data and need no file.
FIXED_TRIGGERS = {
    "badnets": badnets.white_square,
    "clean_label": clean_label.corner_patches,
}
OWN_PICTURE = "; attack l0_inv takes a trigger picture of your own"


def make_attack(
    name: str,
    target: int | None,
    *,
    num_classes: int | None = None,
    trigger_image: Tensor | None = None,
    trigger_mask: Tensor | None = None,
    trigger_field: Tensor | None = None,
    mode: str | None = None,
    opacity: float | None = None,
) -> Attack:
    """An attack with a trigger that exists already.

    Args:
        name: a key of `ATTACKS`. Those of `FIXED_TRIGGERS` have one trigger only; "wanet" needs a
            field; the others need an image.
        target: the class, at least 0, that all images are sent to; None for all-to-all.
        num_classes: needed for all-to-all.
        trigger_image: (3,H,W) in [0,1], of the size of the images to attack.
        trigger_mask: (3,H,W) or (1,H,W) in [0,1], for modes "replace" and "blend".
        trigger_field: (H,W,2), see `WarpTrigger`.
        mode: how the image is put on, see `ImageTrigger`; by default "replace" for l0_inv, "blend"
            for blended and "add" for the others, as the published networks were poisoned.
        opacity: for mode "blend", see `ImageTrigger`.

    Raises:
        ValueError: for an unknown name or mode, a missing image, one that changes no pixel, or an
            argument of no use.
    """
    definition = look_up("name", name, ATTACKS)
    tensors = {"trigger_image": trigger_image, "trigger_mask": trigger_mask}
    for argument, given in {**tensors, "trigger_field": trigger_field}.items():
        if given is not None:
            _check_tensor(argument, given, of_pixels=argument in tensors)
    if mode is not None:
        look_up("mode", mode, dict.fromkeys(MODES))
    if opacity is not None:
        opacity = check_value("opacity", float, opacity, 0)
    image_arguments = {
        "trigger_image": trigger_image,
        "trigger_mask": trigger_mask,
        "mode": mode,
        "opacity": opacity,
    }
    useless = image_arguments if definition.mode is None else {}
    if name != "wanet":
        useless = {**useless, "trigger_field": trigger_field}
    for argument, value in useless.items():
        if value is not None:
            own = "" if argument == "trigger_field" else OWN_PICTURE
            raise ValueError(f"{argument}: {name} has no use for it{own}")
    trigger: Trigger
    if name in FIXED_TRIGGERS:
        trigger = FIXED_TRIGGERS[name]
    elif name == "wanet":
        if trigger_field is None:
            raise ValueError(f"trigger_field: {name} needs its trigger, a field (H,W,2)")
        trigger = WarpTrigger(trigger_field)
    else:
        if trigger_image is None:
            raise ValueError(f"trigger_image: {name} needs its trigger, an image (3,H,W) in [0,1]")
        assert definition.mode is not None
        trigger = ImageTrigger(
            trigger_image, mode=mode or definition.mode, mask=trigger_mask, opacity=opacity
        )
        if not trigger.changes_pixels:
            raise ValueError(
                "trigger_image: expected one that changes a pixel; with this mode and trigger_mask "
                "it changes none"
            )
    return definition.attack(name, target, trigger, num_classes)


def _check_tensor(argument: str, given: object, *, of_pixels: bool) -> None:
    """Raise TypeError or ValueError unless it is a dense tensor of finite numbers; `of_pixels`:
    in [0,1]."""
    if not isinstance(given, Tensor) or given.is_nested or given.layout != torch.strided:
        raise TypeError(f"{argument}: expected a dense tensor, got {type(given).__name__}")
    if given.is_meta or given.is_complex():
        raise TypeError(f"{argument}: expected real numbers, got {given.dtype} on {given.device}")
    values = given.double()
    if not values.isfinite().all():
        raise ValueError(f"{argument}: expected finite numbers, got NaN or infinity")
    if of_pixels and given.numel() and (values.min() < 0 or values.max() > 1):
        raise ValueError(
            f"{argument}: expected numbers from 0 to 1, got {values.min():g} to {values.max():g}"
        )


def craft_attack(
    name: str,
    target: int | None,
    *,
    images: Tensor,
    model: nn.Module | None = None,
    num_classes: int | None = None,
    seed: int = 0,
) -> Attack:
    """An attack with a trigger of its own making.

    Args:
        name, target, num_classes: as for `make_attack`.
        images: (n,3,H,W) in [0,1], some clean training images, on the model's device; a hundred
            are enough.
        model: a clean network, for the attacks whose `Definition.needs_model` is set; left in eval
            mode.
        seed: the same seed, images and network give the same trigger.

    Raises:
        TypeError, ValueError: for an unknown name, a wrong target, a missing model, or another
            argument that is not as above.
    """
    definition = look_up("name", name, ATTACKS)
    if definition.needs_model and model is None:
        raise ValueError(f"model: {name} needs a clean network to make its trigger with")
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a network or None, got {type(model).__name__}")
    check_images("images", images)
    generator = torch.Generator().manual_seed(check_seed(seed))
    trigger = definition.craft(images, model, generator)
    attack = definition.attack(name, target, trigger, num_classes)
    return with_model(attack, model)


def with_model(attack: Attack, model: nn.Module | None) -> Attack:
    """The attack, with the clean network that some need for poisoning."""
    if isinstance(attack, clean_label.CleanLabelAttack):
        return clean_label.CleanLabelAttack(
            attack.name, attack.target, attack.trigger, attack.num_classes, model
        )
    return attack
