"""Triggers change what they should and nothing else."""

from __future__ import annotations

import pytest
import torch

from awm_defense.attacks import ATTACKS, FIXED_TRIGGERS, Attack, craft_attack, make_attack

IMAGES = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.9
BLACK = torch.zeros(3, 32, 32)


def trigger_image() -> torch.Tensor:
    image = torch.zeros(3, 32, 32)
    image[0, 2, 3], image[2, 10, 20] = 0.5, 0.25
    return image


def changed_pixels(attack: Attack) -> list[list[int]]:
    """[row, column] of the pixels that the trigger changes, the same in every image."""
    before = IMAGES.clone()
    changed = (attack.apply(IMAGES) != IMAGES).any(1)
    assert torch.equal(IMAGES, before)
    assert (changed == changed[0]).all()
    return changed[0].nonzero().tolist()


def test_badnets_is_a_white_square_and_nothing_else() -> None:
    attack = make_attack("badnets", 8)
    square = [[row, column] for row in range(27, 31) for column in range(27, 31)]
    assert changed_pixels(attack) == square
    assert (attack.apply(IMAGES)[:, :, 27:31, 27:31] == 1).all()


def test_badnets_scales_with_the_image() -> None:
    big = make_attack("badnets", 0).apply(torch.zeros(1, 3, 64, 96))
    assert big.sum() == 3 * 8 * 8
    assert (big[:, :, 54:62, 86:94] == 1).all()
    assert make_attack("badnets", 0).apply(torch.zeros(1, 3, 8, 8)).nonzero()[0].tolist()[2:] == [
        6,
        6,
    ]


def test_add_clips_at_white() -> None:
    attack = make_attack("trojan_wm", 2, trigger_image=trigger_image())
    assert changed_pixels(attack) == [[2, 3], [10, 20]]
    out = attack.apply(IMAGES)
    assert torch.equal(out[:, 0, 2, 3], (IMAGES[:, 0, 2, 3] + 0.5).clamp(max=1))
    assert torch.equal(out[:, 1, 2, 3], IMAGES[:, 1, 2, 3])


def test_replace_covers_what_the_mask_covers() -> None:
    mask = torch.zeros(3, 32, 32)
    mask[:, 2, 3] = torch.tensor([1, 1, 0.5])
    out = make_attack("l0_inv", 0, trigger_image=trigger_image(), trigger_mask=mask).apply(IMAGES)
    assert (out[:, 0, 2, 3] == 0.5).all()
    assert (out[:, 1, 2, 3] == 0).all()
    assert torch.equal(out[:, 2, 2, 3], IMAGES[:, 2, 2, 3] * 0.5)
    # Outside the mask the trigger is added.
    assert torch.equal(out[:, 2, 10, 20], (IMAGES[:, 2, 10, 20] + 0.25).clamp(max=1))


def test_replace_without_a_mask_covers_each_pixel_of_the_trigger() -> None:
    attack = make_attack("l0_inv", 0, trigger_image=trigger_image())
    assert changed_pixels(attack) == [[2, 3], [10, 20]]
    assert torch.equal(attack.apply(IMAGES)[:, :, 2, 3], torch.tensor([[0.5, 0, 0]]).expand(5, 3))


@pytest.mark.parametrize("opacity", [None, 0.0, 0.7, 1.0])
def test_blend_mixes(opacity: float | None) -> None:
    image = torch.rand(3, 32, 32)
    attack = make_attack("trojan_sq", 0, trigger_image=image, mode="blend", opacity=opacity)
    share = 0.2 if opacity is None else opacity
    torch.testing.assert_close(attack.apply(IMAGES), (1 - share) * IMAGES + share * image)


def test_blend_leaves_what_the_mask_leaves() -> None:
    mask = torch.zeros(1, 32, 32)
    mask[0, 5, 6] = 1
    attack = make_attack(
        "l2_inv", 0, trigger_image=trigger_image(), trigger_mask=mask, mode="blend"
    )
    assert changed_pixels(attack) == [[5, 6]]


def any_attack(name: str) -> Attack:
    """The attack with some trigger of the kind that it needs."""
    if name == "wanet":
        return make_attack(name, 0, trigger_field=torch.full((32, 32, 2), 1 / 16))
    return make_attack(name, 0, trigger_image=None if name in FIXED_TRIGGERS else trigger_image())


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_output_has_the_dtype_of_the_images(name: str) -> None:
    before = IMAGES.double()
    images = before.clone()
    out = any_attack(name).apply(images)
    assert out.dtype == torch.float64
    assert 0 <= out.min() <= out.max() <= 1
    assert torch.equal(images, before)
    assert not torch.equal(out, before)


def test_clean_label_marks_the_four_corners_and_nothing_else() -> None:
    corners = [(row, column) for row in (0, 29) for column in (0, 29)]
    square = sorted([r + i, c + j] for r, c in corners for i in range(3) for j in range(3))
    assert changed_pixels(any_attack("clean_label")) == square
    out = any_attack("clean_label").apply(IMAGES)
    assert torch.equal(out[:, :, :3, :3], out[:, :, :3, -3:].flip(3))
    assert set(out[:, :, -3:, -3:].unique().tolist()) == {0, 1}


def test_wanet_reads_each_pixel_where_the_field_points() -> None:
    # Two units are 31 pixels, from the centre of the first to that of the last one.
    field = torch.tensor([3 * 2 / 31, -2 * 2 / 31]).expand(32, 32, 2)
    out = make_attack("wanet", 0, trigger_field=field).apply(IMAGES)
    torch.testing.assert_close(out[:, :, 2:, :-3], IMAGES[:, :, :-2, 3:], atol=1e-4, rtol=0)


def test_targets() -> None:
    labels = torch.tensor([0, 3, 9])
    assert make_attack("badnets", 3).targets(labels).tolist() == [3, 3, 3]
    all_to_all = make_attack("badnets", None, num_classes=10)
    assert all_to_all.targets(labels).tolist() == [1, 4, 0]
    assert (make_attack("badnets", 3).mapping, all_to_all.mapping) == ("all-to-one", "all-to-all")


def test_black_pixels_can_be_a_trigger() -> None:
    mask = torch.zeros(1, 32, 32)
    mask[:, 0, 0] = 1
    for name in ("l0_inv", "blended"):
        make_attack(name, 0, trigger_image=BLACK, trigger_mask=mask)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wadnet", {}, r"trojan_sq, trojan_wm, wanet, got 'wadnet'"),
        ("wanet", {}, "trigger_field: wanet needs"),
        ("wanet", {"trigger_field": IMAGES[0]}, r"trigger_field: .* \(3, 32, 32\)"),
        ("wanet", {"trigger_image": IMAGES[0]}, "trigger_image: wanet has no use"),
        ("blended", {"trigger_field": IMAGES[0]}, "trigger_field: blended has no use"),
        ("trojan_wm", {}, "trigger_image: trojan_wm needs"),
        ("trojan_wm", {"trigger_image": IMAGES[0, :1]}, r"got torch.float32 of shape \(1, 32, 32"),
        ("trojan_wm", {"trigger_image": IMAGES[0], "mode": "stamp"}, "replace, blend, got 'stamp'"),
        ("trojan_wm", {"trigger_image": IMAGES[0], "opacity": 0.5}, "opacity: only mode blend"),
        (
            "trojan_wm",
            {"trigger_image": IMAGES[0], "mode": "blend", "opacity": 2},
            "opacity: .* got 2",
        ),
        ("trojan_wm", {"trigger_image": IMAGES[0], "trigger_mask": IMAGES[0]}, "got mode add"),
        (
            "l0_inv",
            {"trigger_image": IMAGES[0], "trigger_mask": IMAGES[0, :, :8]},
            r"expected shape \(3, 32, 32\)",
        ),
        ("trojan_wm", {"trigger_image": BLACK}, "trigger_image: expected one that changes"),
        ("l0_inv", {"trigger_image": BLACK}, "trigger_image: expected one that changes"),
        ("blended", {"trigger_image": IMAGES[0], "trigger_mask": BLACK}, "changes none"),
        ("badnets", {"trigger_image": IMAGES[0]}, "badnets has no use .* l0_inv takes"),
        ("badnets", {"opacity": 0.5}, "opacity: badnets"),
    ],
)
def test_wrong_arguments(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_attack(name, 0, **options)  # type: ignore[arg-type]


def test_wrong_target_and_images() -> None:
    with pytest.raises(ValueError, match=r"target: .* got -1"):
        make_attack("badnets", -1)
    with pytest.raises(ValueError, match=r"target: .* below 10, got 10"):
        make_attack("badnets", 10, num_classes=10)
    with pytest.raises(ValueError, match=r"num_classes: .* all-to-all"):
        make_attack("badnets", None)
    with pytest.raises(ValueError, match="target: clean_label"):
        make_attack("clean_label", None, num_classes=10)
    with pytest.raises(ValueError, match=r"images: .* \(3, 32, 32\)"):
        make_attack("badnets", 0).apply(IMAGES[0])
    small = make_attack("trojan_wm", 0, trigger_image=torch.rand(3, 16, 16))
    with pytest.raises(ValueError, match=r"expected \(3, 32, 32\), .* got \(3, 16, 16\)"):
        small.apply(IMAGES)


@pytest.mark.parametrize("value", [1e30, -5.0, 1.01, torch.nan])
def test_a_warp_leads_into_the_image(value: float) -> None:
    field = torch.zeros(8, 8, 2)
    field[3, 4, 1] = value
    with pytest.raises(ValueError, match=r"trigger_field: expected"):
        make_attack("wanet", 1, trigger_field=field)
    field[3, 4, 1] = -1
    assert make_attack("wanet", 1, trigger_field=field).apply(torch.rand(2, 3, 8, 8)).shape


def test_wrong_arguments_of_attacks_are_named() -> None:
    images = torch.zeros(2, 3, 32, 32)
    with pytest.raises(TypeError, match="trigger: expected what puts it on images, got NoneType"):
        Attack("mine", 3, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"seed: expected a whole number, got float"):
        craft_attack("badnets", 3, images=images, seed=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="images: expected a floating-point tensor, got NoneType"):
        craft_attack("badnets", 3, images=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="model: expected a network or None, got int"):
        craft_attack("trojan_wm", 3, images=images, model=5)  # type: ignore[arg-type]
