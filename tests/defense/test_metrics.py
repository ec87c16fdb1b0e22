"""The metrics on a network whose every answer is known."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from awm_defense.attacks import Attack, make_attack
from awm_defense.metrics import accuracy, evaluate, evaluate_triggered

# Ten images of classes 0, 1, 2 (4, 3, 3 of them). What is predicted stands in the first pixel,
# times a tenth, and what is predicted with the trigger in the second.
LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
CLEAN = [0, 0, 0, 1, 1, 1, 0, 2, 2, 2]
TRIGGERED = [0, 2, 2, 2, 1, 2, 2, 2, 2, 1]


def make_images() -> Tensor:
    images = torch.zeros(10, 3, 4, 4)
    images[:, 0, 0, 0] = torch.tensor(CLEAN) / 10
    images[:, 0, 0, 1] = torch.tensor(TRIGGERED) / 10
    return images


def swap(images: Tensor) -> Tensor:
    """A trigger that swaps the first two pixels."""
    return images[..., [1, 0, 2, 3]]


ATTACK = Attack("swap", 2, swap)


class Reader(nn.Module):
    """Predicts ten times the first pixel; wrong unless all of it is in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.BatchNorm2d(3).eval()
        self.live = nn.Dropout()

    def forward(self, images: Tensor) -> Tensor:
        assert not any(module.training for module in self.modules())
        return nn.functional.one_hot((images[:, 0, 0, 0] * 10).round().long(), 5).float()


@pytest.mark.parametrize("batch_size", [1, 3, 500])
def test_counts(batch_size: int) -> None:
    found = evaluate(Reader(), make_images(), LABELS, ATTACK, batch_size=batch_size)
    assert found == pytest.approx(
        # 7 images are not of the target class: 5 of them are sent there, 2 keep their class.
        {"acc": 80, "asr": 100 * 5 / 7, "asr_all": 70, "ra": 100 * 2 / 7, "target_acc": 100}
    )
    first = Attack("swap", 0, swap)
    assert evaluate(Reader(), make_images(), LABELS, first)["target_acc"] == 75
    assert "target_acc" not in evaluate(Reader(), make_images()[4:], LABELS[4:], first)
    assert accuracy(Reader(), make_images(), LABELS, batch_size=batch_size) == pytest.approx(80)


@pytest.mark.parametrize(
    "attack",
    [
        make_attack("wanet", 2, trigger_field=torch.zeros(4, 4, 2)),
        make_attack("blended", 2, trigger_image=torch.ones(3, 4, 4), opacity=0.0),
        make_attack(  # black on what is black
            "l0_inv",
            2,
            trigger_image=torch.zeros(3, 4, 4),
            trigger_mask=nn.functional.one_hot(torch.tensor(3), 4).float().expand(3, 4, 4),
        ),
    ],
)
def test_a_trigger_that_changes_nothing_is_not_measured(attack: Attack) -> None:
    with pytest.raises(ValueError, match="attack: expected a trigger that changes images"):
        evaluate(Reader(), make_images(), LABELS, attack)


def test_trigger_is_put_on_before_normalisation() -> None:
    seen = []

    class Spy(Reader):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.clone())
            return super().forward(images * 0)

    attack = make_attack("badnets", 2)
    evaluate(Spy(), make_images(), LABELS, attack, mean=[0.5, 0.4, 0.3], std=[0.1, 0.2, 0.5])
    corner = seen[-2][:, :, 2, 2]  # the clean ones come last
    torch.testing.assert_close(corner, torch.tensor([[5.0, 3.0, 1.4]]).expand(10, 3))


def test_model_keeps_its_modes() -> None:
    model = Reader()
    model.live.train()
    evaluate(model, make_images(), LABELS, ATTACK)
    assert (model.training, model.live.training, model.frozen.training) == (True, True, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": LABELS[:9]}, r"labels: expected shape \(10,\), got \(9,\)"),
        ({"labels": None}, "labels: expected the true class"),
        ({"images": torch.zeros(0, 3, 4, 4), "labels": LABELS[:0]}, "images: expected shape"),
        ({"labels": torch.full((10,), 2)}, "outside the target class 2"),
        ({"mean": [0.5] * 3}, "mean, std: expected both or neither"),
        (
            {"mean": 1e300, "std": 1.0},
            r"mean: expected numbers from -1e\+06 to 1e\+06, got 1e\+300",
        ),
        ({"mean": 0.0, "std": 1e-300}, "std: expected numbers from 1e-06"),
        ({"mean": 0.0, "std": [1.0, 1.0, 1e300]}, "std: expected numbers from 1e-06"),
        ({"batch_size": 0}, "batch_size: .* got 0"),
    ],
)
def test_wrong_arguments(options: dict[str, object], message: str) -> None:
    arguments = {"images": make_images(), "labels": LABELS, "attack": ATTACK, **options}
    with pytest.raises(ValueError, match=message):
        evaluate(Reader(), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (255.0, r"in \[0, 1\] \(divide by 255\), got 0 to 255"),
        (-7e30, r"in \[0, 1\] .*got -7e\+30 to"),
        (torch.nan, "finite values"),
    ],
)
def test_every_image_has_pixels_of_the_right_range(value: float, message: str) -> None:
    images = make_images()
    images[7, 2, 3, 3] = value
    with pytest.raises(ValueError, match=f"images: expected .*{message}"):
        accuracy(Reader(), images, LABELS)
    with pytest.raises(ValueError, match=f"images: expected .*{message}"):
        evaluate(Reader(), images, LABELS, ATTACK)
    clean, goals = make_images(), torch.full((10,), 2)
    for pair in ((images, clean), (clean, images)):
        with pytest.raises(ValueError, match=f"(images|triggered): expected .*{message}"):
            evaluate_triggered(Reader(), pair[0], LABELS, pair[1], LABELS, goals)


def test_a_network_that_gives_one_answer_to_all_is_told_of() -> None:
    """Of equal logits the first counts as the largest: attack success would be 100 %."""

    class Constant(Reader):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * 0

    first = Attack("swap", 0, swap)
    with pytest.warns(UserWarning, match="same logits to each of 10 clean images"):
        assert evaluate(Constant(), make_images(), LABELS, first, batch_size=3)["asr"] == 100
    with pytest.warns(UserWarning, match="same logits"):
        accuracy(Constant(), make_images(), LABELS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(Reader(), make_images(), LABELS, first, batch_size=1)
        accuracy(Constant(), make_images()[:1], LABELS[:1])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_no_answer(value: float) -> None:
    class Broken(Reader):
        def forward(self, images: Tensor) -> Tensor:
            found = super().forward(images)
            found[-1, 0] = value
            return found

    with pytest.raises(ValueError, match="model: expected finite logits"):
        evaluate(Broken(), make_images(), LABELS, ATTACK)
    with pytest.raises(ValueError, match="model: expected finite logits"):
        accuracy(Broken(), make_images(), LABELS)


def test_what_the_trigger_can_t_do_is_found_before_clean_images_are_measured() -> None:
    class Counting(Reader):
        seen = 0

        def forward(self, images: Tensor) -> Tensor:
            self.seen += len(images)
            return super().forward(images)

    model = Counting()
    other = make_attack("wanet", 2, trigger_field=torch.ones(8, 8, 2))
    with pytest.raises(ValueError, match="trigger_field: expected"):
        evaluate(model, make_images(), LABELS, other)
    assert model.seen == 2  # by which its output is known


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("originals", None, "originals: expected classes, int64, got NoneType"),
        ("targets", [3, 3], "targets: expected classes, int64, got list"),
        ("targets", torch.tensor([3]), r"targets: expected a class of each of 2 .*, got \(1,\)"),
        ("triggered", None, "triggered: expected a floating-point tensor, got NoneType"),
    ],
)
def test_triggered_images_have_classes_each(name: str, value: Any, says: str) -> None:
    images, labels = torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)
    given = {"triggered": images, "originals": labels, "targets": labels + 3, name: value}
    with pytest.raises((TypeError, ValueError), match=says):
        evaluate_triggered(nn.Flatten(), images, labels, **given)


def test_all_to_all_is_of_as_many_classes_as_the_network_knows() -> None:
    attack = Attack("mine", None, torch.clone, num_classes=3)
    with pytest.raises(ValueError, match=r"attack: expected num_classes 5, .* got 3"):
        evaluate(Reader(), make_images(), LABELS, attack)


def test_pixels_may_be_out_of_range_by_rounding() -> None:
    images = make_images()
    assert accuracy(Reader(), images + 1e-7, LABELS) == accuracy(Reader(), images, LABELS)
    with pytest.raises(ValueError, match=r"images: expected pixel values in \[0, 1\]"):
        accuracy(Reader(), images - 1e-3, LABELS)
