"""Backdoor attacks: what their triggers do to an image, and how they poison training data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from awm_defense.attacks.attack import Attack
from awm_defense.attacks.triggers import ImageTrigger, white_square

__all__ = ["ATTACKS", "Attack", "ImageTrigger", "make_attack", "white_square"]

Trigger = Callable[[Tensor], Tensor]


def _badnets(
    image: Tensor | None, mask: Tensor | None, mode: str | None, opacity: float | None
) -> Trigger:
    given = {"trigger_image": image, "trigger_mask": mask, "mode": mode, "opacity": opacity}
    for argument, value in given.items():
        if value is not None:
            raise ValueError(f"{argument}: badnets makes its own trigger and takes none")
    return white_square


def _image_trigger(
    name: str,
    default_mode: str,
    image: Tensor | None,
    mask: Tensor | None,
    mode: str | None,
    opacity: float | None,
) -> Trigger:
    if image is None:
        raise ValueError(f"trigger_image: {name} needs its trigger, an image (3,H,W) in [0,1]")
    return ImageTrigger(image, mode=mode or default_mode, mask=mask, opacity=opacity)


# Each makes the trigger from (trigger_image, trigger_mask, mode, opacity). The default modes are
# those in which the published networks were poisoned.
ATTACKS: dict[str, Callable[[Tensor | None, Tensor | None, str | None, float | None], Trigger]] = {
    "badnets": _badnets,
    "l0_inv": partial(_image_trigger, "l0_inv", "replace"),
    "l2_inv": partial(_image_trigger, "l2_inv", "add"),
    "trojan_sq": partial(_image_trigger, "trojan_sq", "add"),
    "trojan_wm": partial(_image_trigger, "trojan_wm", "add"),
}


def make_attack(
    name: str,
    target: int,
    *,
    trigger_image: Tensor | None = None,
    trigger_mask: Tensor | None = None,
    mode: str | None = None,
    opacity: float | None = None,
) -> Attack:
    """An attack that sends every image with its trigger to one class.

    Args:
        name: a key of `ATTACKS`. "badnets" (Gu et al., 2017) is a white square near the lower
            right corner; the others need a trigger image.
        target: the class, at least 0.
        trigger_image: (3,H,W) in [0,1], of the size of the images to attack.
        trigger_mask: (3,H,W) or (1,H,W) in [0,1], for modes "replace" and "blend".
        mode: how the image is put on, see `ImageTrigger`; by default "replace" for l0_inv and
            "add" for the others.
        opacity: for mode "blend", see `ImageTrigger`.

    Raises:
        ValueError: for an unknown name or mode, a missing image, or an argument of no use.
    """
    if name not in ATTACKS:
        raise ValueError(f"name: expected one of {', '.join(sorted(ATTACKS))}, got {name!r}")
    if target < 0:
        raise ValueError(f"target: expected a class, at least 0, got {target}")
    return Attack(name, target, ATTACKS[name](trigger_image, trigger_mask, mode, opacity))
