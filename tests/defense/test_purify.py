"""purify: what it leaves alone, what it returns, and that it is the algorithm it says it is."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from awm_defense import get_recipe, purify
from awm_defense.models import build_model
from awm_defense.working.fold import fold_batchnorm, scale_weights
from bench.plain_loop import plain_purify


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.norm2(self.conv2(x)))
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


class Untraceable(Small):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.mean() > -1e9 else -x)


class Viewing(Small):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))
        return self.head(x.view(x.shape[0], -1))  # type: ignore[no-any-return]


def make(kind: type[Small] = Small) -> nn.Module:
    torch.manual_seed(0)
    model = kind()
    for norm in (model.norm1, model.norm2):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        norm.running_mean.normal_()  # type: ignore[union-attr]
        norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return model.eval()


def clean(n: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 3, 8, 8, generator=generator), torch.arange(n) % 4


def quick(name: str = "official", **options: Any) -> Any:
    base = {"epochs": "2", "inner_epochs": "1", "examine": "false"}
    return get_recipe(name).with_options({**base, **{k: str(v) for k, v in options.items()}})


def test_folding_keeps_the_function() -> None:
    model = make()
    folded, scales = fold_batchnorm(model)
    assert set(scales) == {"conv1.weight", "conv2.weight"}
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    scale_weights(folded, scales)
    x = torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(folded(x), model(x))


@pytest.mark.parametrize("arch", ["small_vgg", "resnet18"])
def test_every_batchnorm_of_the_shipped_networks_folds(arch: str) -> None:
    folded, _ = fold_batchnorm(build_model(arch, 10).eval())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())


@pytest.mark.parametrize("name", ["paper", "official", "default"])
def test_result_is_the_model_with_masked_weights(name: str) -> None:
    model = make()
    before = copy.deepcopy(model.state_dict())
    result = purify(model, *clean(), recipe=quick(name))
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), "the given model was changed"
    assert type(result.model) is Small
    assert result.model.state_dict().keys() == before.keys()
    # The head holds most of the weights.
    wanted = {"conv1", "conv2"} if name == "official" else {"conv1", "conv2", "head"}
    assert set(result.masks) == wanted
    for key, value in result.model.state_dict().items():
        layer = key.removesuffix(".weight")
        expected = before[key] * result.masks[layer] if layer in result.masks else before[key]
        torch.testing.assert_close(value, expected)
    assert all(((m >= 0) & (m <= 1)).all() for m in result.masks.values())
    assert any((m < 1).any() for m in result.masks.values())
    assert len(result.history) == 2 and result.seconds > 0 and result.peak_memory_mb > 0
    assert result.trigger.shape == (3, 8, 8)
    # It is untrained.
    (first, *notes) = result.notes
    assert "given images right" in first
    if name == "official":
        (note,) = notes
        assert re.match("masks lie on .* % of the weights; .* of kind 'linear'", note)
    else:
        assert notes == []
    total = sum(value.numel() for value in model.parameters())
    having = sum(mask.numel() for mask in result.masks.values())
    assert sum(count for count, _ in result.coverage.values()) == having
    assert sum(count for _, count in result.coverage.values()) == total
    parameters = dict(result.model.named_parameters())
    assert all(type(p) is nn.Parameter and p.requires_grad for p in parameters.values())


@pytest.mark.parametrize("kind", [Small, Untraceable, Viewing])
@pytest.mark.parametrize("images", [4, 50])
def test_equals_the_plain_loop(kind: type[Small], images: int) -> None:
    """The engine (folded, flat, fused) and the recipe written plainly give the same masks."""
    recipe = quick(mask_optimizer="sgd", mask_lr=3, batch_size=16, trigger_lr=1)
    model, (x, y) = make(kind), clean(images)
    expected, _ = plain_purify(model, x, y, recipe=recipe, seed=3)
    result = purify(model, x, y, recipe=recipe, seed=3, precision="fp32")
    assert any((m < 0.99).any() for m in expected.values())
    for name, mask in expected.items():
        torch.testing.assert_close(result.masks[name], mask, atol=1e-3, rtol=0)


def test_fallbacks_are_said() -> None:
    untraceable = purify(make(Untraceable), *clean(), recipe=quick())
    assert any("BatchNorm is not folded" in note for note in untraceable.notes)
    viewing = purify(make(Viewing), *clean(), recipe=quick())
    assert any("channels_last" in note for note in viewing.notes)


def test_same_seed_same_masks() -> None:
    runs = [purify(make(), *clean(), recipe=quick("default"), seed=s) for s in (5, 5, 6)]
    same, other = (
        [torch.equal(runs[0].masks[k], run.masks[k]) for k in run.masks] for run in runs[1:]
    )
    assert all(same) and not all(other)


def test_trigger_stays_in_the_ball_and_beats_random_ones() -> None:
    recipe = quick(epochs=1, inner_epochs=40, tau=50, mask_lr=0, trigger_targets="labels")
    model, (images, labels) = make(), clean()
    trigger = purify(model, images, labels, recipe=recipe).trigger
    norm = trigger.abs().sum()
    assert 0 < norm <= 50 * (1 + 1e-5)

    def loss(delta: Tensor) -> float:
        return nn.functional.cross_entropy(model(images + delta), labels).item()

    noise = torch.randn(100, *trigger.shape, generator=torch.Generator().manual_seed(2))
    randoms = [loss(n * (norm / n.abs().sum())) for n in noise]
    assert loss(trigger) > max(randoms)


def test_the_trigger_can_be_unbounded_or_penalised() -> None:
    def norm(**options: Any) -> float:
        recipe = quick(trigger_lr=1, inner_epochs=10, **options)
        return purify(make(), *clean(), recipe=recipe).history[0]["trigger_norm"]

    free = norm(tau="inf")
    assert norm(tau=free / 2) == pytest.approx(free / 2, rel=1e-5)
    assert 0 < norm(tau="inf", trigger_l2=0.1) < 0.8 * free


def test_normalised_input_equals_normalisation_inside_the_model() -> None:
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]

    class Normalise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            shape = (1, 3, 1, 1)
            return (x - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)

    options = {"recipe": quick(), "precision": "fp32"}
    outside = purify(make(), *clean(), **options, mean=mean, std=std)
    inside = purify(nn.Sequential(Normalise(), make()), *clean(), **options)
    for name, mask in outside.masks.items():
        torch.testing.assert_close(mask, inside.masks[f"1.{name}"], atol=1e-3, rtol=0)


def test_one_image_is_enough() -> None:
    images, labels = clean(1)
    assert len(purify(make(), images, labels, recipe=quick()).history) == 2


def test_non_finite_values_give_back_the_last_good_masks() -> None:
    model = make()
    with torch.no_grad():
        model.conv2.weight[0, 0, 0, 0] = torch.finfo(torch.float32).max
    result = purify(model, *clean(), recipe=quick())
    assert any("non-finite" in note for note in result.notes)
    assert all(m.isfinite().all() for m in result.masks.values())
    assert all((m == 1).all() for m in result.masks.values())


def test_shared_weights_share_their_mask() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 3, padding=1)
            self.second = nn.Conv2d(3, 3, 3, padding=1)
            self.second.weight = self.first.weight
            self.head = nn.Linear(3 * 64, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.second(self.first(x)).flatten(1))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    result = purify(Shared(), *clean(), recipe=quick())
    assert set(result.masks) == {"first"}
    assert result.model.first.weight is result.model.second.weight


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": torch.rand(3, 8, 8)}, ValueError, "images: expected shape"),
        ({"images": torch.rand(4, 3, 8, 8) * 255}, ValueError, "images: expected pixel values"),
        ({"images": torch.ones(4, 3, 8, 8).int()}, TypeError, "images: expected floating point"),
        ({"labels": torch.zeros(3).long()}, ValueError, r"labels: expected shape \(4,\)"),
        ({"labels": torch.rand(4)}, TypeError, "labels: expected whole numbers, got torch.float"),
        ({"labels": torch.arange(4) + 1}, ValueError, "labels: expected classes from 0 to 3"),
        ({"model": nn.Flatten()}, ValueError, "model: expected weights to mask"),
        ({"recipe": "best"}, ValueError, "recipe: expected one of"),
        ({"mean": 0.5}, ValueError, "mean, std: expected both"),
        ({"mean": [0.5] * 2, "std": [1.0] * 2}, ValueError, "mean: expected one number or one"),
    ],
)
def test_bad_arguments_are_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    images, labels = clean()
    arguments = {"model": make(), "images": images, "labels": labels, "recipe": quick()}
    arguments.update(change)
    with pytest.raises(error, match=message):
        purify(**arguments)


def test_a_result_prints_as_one_line() -> None:
    text = repr(purify(make(), *clean(), recipe=quick()))
    assert text.startswith("<PurifyResult: Small, official, ") and "\n" not in text
