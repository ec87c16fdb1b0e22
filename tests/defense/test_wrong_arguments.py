"""Arguments of a wrong kind: one sentence that names the argument, before any work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from awm_defense.attacks import Attack, make_attack
from awm_defense.awm.recipe import get_recipe
from awm_defense.metrics import accuracy, evaluate
from awm_defense.purification import purify, purify_many
from awm_defense.registry import get_settings
from awm_defense.synthesis import synthesize
from tests.defense.conftest import tiny_network

CLASSES = 10
IMAGES, LABELS = torch.rand(CLASSES, 3, 32, 32), torch.arange(CLASSES)
NESTED = torch.nested.nested_tensor([IMAGES[0], IMAGES[1]])


@pytest.mark.parametrize(
    "images",
    [
        IMAGES.to(torch.float8_e4m3fn),
        IMAGES.to("meta"),
        IMAGES.to_sparse(),
        NESTED,
        [IMAGES[0].to("meta")],
        [IMAGES[0].to_sparse()],
        np.int64(3),
        3,
        np.zeros((10, 3, 32, 32), np.longdouble),
        [np.zeros((3, 32, 32), np.longdouble)],
        *([Image.new(mode, (32, 32))] * 10 for mode in ("I", "I;16", "F")),
    ],
)
def test_images(images: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^images: expected"):
        purify(tiny_network(), images, recipe="clp")
    with pytest.raises((TypeError, ValueError), match=r"^images: expected"):
        accuracy(tiny_network(), images, LABELS)


def test_numbers_of_numpy() -> None:
    model, attack = tiny_network(), make_attack("badnets", np.int64(3))  # type: ignore[arg-type]
    assert type(attack.target) is int
    sizes: Any = {"batch_size": np.int64(3)}
    expected = evaluate(model, IMAGES, LABELS, attack, batch_size=3)
    assert evaluate(model, IMAGES, LABELS, attack, **sizes) == expected
    assert accuracy(model, IMAGES, LABELS, **sizes) == expected["acc"]
    counts: Any = {"classes": np.int32(3), "per_class": np.uint8(1)}
    size: Any = tuple(np.array([3, 32, 32]))
    assert len(synthesize(tiny_network(), size, **counts)[0]) == 3
    given: Any = {"epochs": np.int64(2), "tau": np.float32(0.5), "alpha": 1}
    recipe = replace(get_recipe("official"), **given)
    assert [type(value) for value in (recipe.epochs, recipe.tau, recipe.alpha)] == [int, float, int]


@pytest.mark.parametrize("label", [-2, CLASSES, 2**62])
def test_labels_that_the_network_doesn_t_know(label: int) -> None:
    labels = LABELS.clone()
    labels[4] = label
    for call in (
        lambda: purify(tiny_network(), IMAGES, labels, recipe="clp"),
        lambda: accuracy(tiny_network(), IMAGES, labels),
        lambda: evaluate(tiny_network(), IMAGES, labels, make_attack("badnets", 3)),
    ):
        with pytest.raises(ValueError, match=r"^labels: expected classes from 0"):
            call()
    with pytest.raises(ValueError, match=f"^attack: expected a target of the {CLASSES} classes"):
        evaluate(tiny_network(), IMAGES, LABELS, make_attack("badnets", CLASSES))


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.to("meta"),
        LABELS.to_sparse(),
        torch.nested.nested_tensor([LABELS, LABELS]),
        [LABELS.to("meta")] * CLASSES,
        3,
        np.int64(3),
        torch.tensor(3),
        LABELS.to(torch.complex64),
    ],
)
def test_labels(labels: Any) -> None:
    for images in (IMAGES, IMAGES[:, 0]):
        with pytest.raises((TypeError, ValueError), match=r"^(labels|images): expected"):
            purify(tiny_network(), images, labels, recipe="clp")


@pytest.mark.parametrize("label", [LABELS[:1].to("meta"), NESTED, "cat", 1.5])
def test_labels_of_rows(label: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^labels: expected"):
        purify(tiny_network(), [(image, label) for image in IMAGES], recipe="clp")


def test_labels_of_rows_may_carry_a_gradient() -> None:
    rows = [
        (image, label.float().requires_grad_()) for image, label in zip(IMAGES, LABELS, strict=True)
    ]
    assert accuracy(tiny_network(), rows) >= 0


@pytest.mark.parametrize("max_memory", [0, -1, "a", float("nan"), True])
@pytest.mark.parametrize("recipe", ["clp", "default"])
def test_memory(recipe: str, max_memory: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^max_memory: expected"):
        purify(tiny_network(), IMAGES, LABELS, recipe=recipe, max_memory=max_memory)


@pytest.mark.parametrize("captured", [np.array([True, False]), "abc", None, 1])
def test_whether_steps_are_captured(captured: Any) -> None:
    with pytest.raises(TypeError, match=r"^captured: expected bool"):
        purify(tiny_network(), IMAGES, LABELS, recipe="clp", captured=captured)


@pytest.mark.parametrize("models", [3, None, tiny_network(), torch.nn.Sequential()])
def test_models(models: Any) -> None:
    with pytest.raises(TypeError, match=r"^models: expected several networks"):
        list(purify_many(models, IMAGES, LABELS, recipe="clp"))


@pytest.mark.parametrize("attack", [None, 3, "badnets", lambda images: images])
def test_an_attack(attack: Any) -> None:
    with pytest.raises(TypeError, match=r"^attack: expected an Attack"):
        evaluate(tiny_network(), IMAGES, LABELS, attack)


@pytest.mark.parametrize(
    "trigger",
    [
        lambda images: None,
        lambda images: images[:1],
        lambda images: images[..., :4],
        lambda images: images * torch.nan,
        lambda images: images + 1,
        lambda images: images - torch.inf,
        lambda images, amount: images,
        lambda images: torch.linalg.cholesky(images.view(-1)),
        lambda images: images.to("meta"),
        lambda images: images.int(),
        lambda images: 1 / 0,
        lambda images: images @ images[0, 0, :3],
    ],
)
def test_a_trigger_of_own_code(trigger: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^attack: expected a trigger"):
        evaluate(tiny_network(), IMAGES, LABELS, Attack("own", 3, trigger))
    with pytest.raises((TypeError, ValueError), match=r"^attack: expected a trigger"):
        Attack("own", 3, trigger).poison(IMAGES, LABELS, 0.5, torch.Generator())


@pytest.mark.parametrize("argument", ["trigger_image", "trigger_mask", "trigger_field"])
def test_triggers_of_no_numbers(argument: str) -> None:
    name = "wanet" if argument == "trigger_field" else "l0_inv"
    shape = (32, 32, 2) if argument == "trigger_field" else (3, 32, 32)
    wrong = [torch.full(shape, torch.nan), torch.ones(shape, device="meta"), "a", NESTED]
    wrong += [] if argument == "trigger_field" else [torch.full(shape, 2.0)]
    for value in wrong:
        given: dict[str, Any] = {"trigger_image": torch.ones(3, 32, 32)} if name == "l0_inv" else {}
        with pytest.raises((TypeError, ValueError), match=rf"^{argument}: expected"):
            make_attack(name, 3, **{**given, argument: value})


def test_more_images_than_any_memory_holds() -> None:
    for size, classes in (((3, 10**9, 10**9), 2), ((3, 32, 32), 10**9)):
        with pytest.raises(ValueError, match=r"^classes, per_class, size: expected at most"):
            synthesize(tiny_network(), size, classes=classes)


@pytest.mark.parametrize("name", ["default", "anp"])
def test_batches_larger_than_any_memory_holds(name: str) -> None:
    recipe = get_settings(name).with_options({"batch_size": 10**9})
    with pytest.raises(ValueError, match=r"^batch_size: expected at most 10000 .*got 1000000000"):
        purify(tiny_network(), IMAGES, LABELS, recipe=recipe, precision="fp32")


@pytest.mark.parametrize("options", [3, None, "tau=3", ["tau"]])
def test_options(options: Any) -> None:
    with pytest.raises(TypeError, match=r"^options: expected names and values"):
        get_recipe("default").with_options(options)
