"""Recipes: options from text, values that depend on the amount of data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from awm_defense.awm.recipe import RECIPES, get_recipe
from awm_defense.working.flat import in_convolutions, mean_inputs


def test_options_are_parsed_by_the_fields_type() -> None:
    recipe = get_recipe("official").with_options(
        {"tau": "100", "epochs": "3", "flip": "false", "layers": "all", "beta": "none"}
    )
    assert (recipe.tau, recipe.epochs, recipe.flip, recipe.layers) == (100.0, 3, False, "all")
    assert recipe.beta is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": "1"}, "recipe option: expected one of .*tau.*'lr'"),
        ({"epochs": "2.5"}, "epochs: expected an integer, got '2.5'"),
        ({"tau": "much"}, "tau: expected a number, got 'much'"),
        ({"tau": "-1"}, "tau: expected a number ≥ 0"),
        ({"layers": " "}, "layers: expected one of"),
        ({"flip": "maybe"}, "flip: expected true or false"),
        ({"alpha": "2"}, "alpha: expected a number ≤ 1"),
        ({"mask_lr": "none"}, "mask_lr: expected a number where mask_lr_share is None"),
        ({"temperature": "0"}, "temperature: expected a number > 0"),
        (
            {"natural_step": "0.5"},
            "natural_step: expected none unless mask_optimizer is 'adam', got 0.5",
        ),
        ({"temperature": "5"}, "1 unless mask_targets is 'original', got 5"),
    ],
)
def test_bad_options_are_named(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_recipe("paper").with_options(options)


def test_unknown_recipe_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match="paper, official, default, got 'best'"):
        get_recipe("best")


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("images", [5, 10, 500])
def test_resolved_recipes_have_no_open_values(name: str, images: int) -> None:
    recipe = RECIPES[name].resolve(images, 10, 3072)
    assert None not in (recipe.batch_size, recipe.tau, recipe.alpha, recipe.beta)
    assert recipe.alpha + recipe.beta == pytest.approx(1)


def test_official_defaults_are_the_authors() -> None:
    one_shot, more = (get_recipe("official").resolve(n, 10, 3072) for n in (10, 500))
    assert (one_shot.batch_size, one_shot.tau, one_shot.alpha) == (32, 100.0, 0.99)
    assert (more.batch_size, more.tau, more.alpha) == (128, 1000.0, 0.9)


@pytest.mark.parametrize(
    ("name", "sizes"), [("official", [32, 32, 128, 128, 128]), ("default", [32, 32, 35, 62, 128])]
)
def test_batches_of_default_grow_with_the_images(name: str, sizes: list[int]) -> None:
    recipe = get_recipe(name)
    assert [recipe.resolve(n, 10, 3072).batch_size for n in (3, 10, 11, 20, 500)] == sizes


def test_tau_can_grow_with_the_image() -> None:
    small, large = (get_recipe("default").resolve(10, 10, 3 * size**2) for size in (32, 224))
    assert [small.tau, large.tau] == pytest.approx([30.72, 1505.28])
    assert replace(get_recipe("default"), tau=5.0).resolve(10, 10, 3072).tau == 5


def test_masks_learn_slower_in_wide_layers() -> None:
    few, many = (get_recipe("default").for_layers(inputs, 1.0) for inputs in (900, 3600))
    assert few.mask_lr == pytest.approx(2 * many.mask_lr)
    given = get_recipe("default").with_options({"mask_lr": "0.03"})
    assert given.for_layers(3600, 1.0).mask_lr == 0.03
    assert get_recipe("official").for_layers(3600, 1.0).mask_lr == 0.01


@pytest.mark.parametrize(("share", "natural"), [(1.0, 0.5), (0.5, 0.5), (0.49, None), (0.0, None)])
def test_steps_are_natural_where_most_masks_are_of_convolutions(
    share: float, natural: float | None
) -> None:
    recipe = get_recipe("default").for_layers(900, share)
    assert recipe.natural_step == natural
    by_adam = replace(get_recipe("default"), natural_step=None)
    assert by_adam.for_layers(900, share) == replace(recipe, natural_step=None)


def test_the_share_of_convolutions_is_that_of_their_weights() -> None:
    convolution, linear = torch.empty(4, 3, 3, 3), torch.empty(4, 9)
    assert in_convolutions([convolution, linear]) == 0.75
    assert in_convolutions([linear]) == 0
    assert in_convolutions([torch.empty(4, 3, 3), torch.empty(4, 3, 3, 3, 3)]) == 1


def test_mean_inputs_weighs_each_mask() -> None:
    # 8 weights of 4 inputs, 6 of 3.
    weights = [torch.zeros(2, 4), torch.zeros(2, 3)]
    assert mean_inputs(weights) == pytest.approx((8 * 4 + 6 * 3) / 14)


def test_values_given_are_kept() -> None:
    recipe = get_recipe("official").with_options({"tau": "7", "beta": "0.5"}).resolve(10, 10, 3072)
    assert (recipe.tau, recipe.beta, recipe.alpha) == (7.0, 0.5, 0.99)
