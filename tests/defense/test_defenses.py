"""The rival defenses: each does what its paper says, behind the interface of `purify`."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from awm_defense import BASELINES, get_settings, purify
from awm_defense.attacks import Attack, craft_attack
from awm_defense.baselines import Ibau, Task
from awm_defense.baselines.anp import prune, with_worst_noise
from awm_defense.data import Dataset, as_float, draw_defender
from awm_defense.metrics import evaluate
from awm_defense.networks.logits import Reading
from awm_defense.pixel_model import Normalise
from awm_defense.training.loop import Plan, train
from awm_defense.working.compute import Compute
from tests.defense.conftest import tiny_network

QUICK = {
    "anp": {"steps": "4", "batch_size": "16"},
    "anp-swm": {"steps": "4", "batch_size": "16"},
    "ibau": {"rounds": "1"},
    "finetune": {"epochs": "1"},
    "fine-pruning": {"epochs": "1"},
    "clp": {"u": "1"},
}
ATTACK = craft_attack("badnets", 3, images=torch.zeros(1, 3, 32, 32))


def quick(name: str) -> Any:
    return get_settings(name).with_options(QUICK[name])


def few(digits: Dataset, n: int = 40) -> tuple[Tensor, Tensor]:
    images, labels, _ = draw_defender(*digits.train(), n=n, seed=0)
    return images, labels


@pytest.fixture(scope="module")
def backdoored(digits: Dataset) -> nn.Module:
    """A small network with BadNets."""
    torch.manual_seed(0)
    blocks = []
    for width, wider in ((3, 32), (32, 64), (64, 64)):
        conv = nn.Conv2d(width, wider, 3, stride=2, padding=1)
        blocks += [conv, nn.BatchNorm2d(wider), nn.ReLU()]
    model = nn.Sequential(*blocks, nn.Flatten(), nn.Dropout(0.2), nn.Linear(1024, 10))
    images, labels = digits.train()
    images, labels, _ = ATTACK.poison(images, labels, 0.1, torch.Generator().manual_seed(0))
    return train(
        model, images, labels, Plan(epochs=8, batch_size=64, weight_decay=5e-4, label_smoothing=0.1)
    )


def measured(model: nn.Module, digits: Dataset, attack: Attack = ATTACK) -> dict[str, float]:
    images, labels = digits.test()
    return evaluate(model, as_float(images), labels, attack)


def problem(model: nn.Module, images: Tensor, labels: Tensor) -> Task:
    return Task(
        copy.deepcopy(model).requires_grad_(False),
        images,
        labels,
        Normalise(None, None, 3),
        Reading(),
        Compute(),
        torch.Generator().manual_seed(0),
    )


@pytest.mark.parametrize("name", BASELINES)
def test_the_model_is_left_alone_and_seeds_repeat(
    name: str, digits: Dataset, backdoored: nn.Module
) -> None:
    model = copy.deepcopy(backdoored).train()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    options = {"recipe": quick(name), "seed": 3, "precision": "fp32"}
    results = [purify(model, *few(digits), **options) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    one, two = (result.model.state_dict() for result in results)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], before[key]) for key in one)
    assert type(results[0].model) is type(model) and results[0].model.training
    assert all(parameter.requires_grad for parameter in results[0].model.parameters())
    assert results[0].recipe == quick(name)


@pytest.mark.parametrize("name", BASELINES)
def test_a_model_fed_normalised_images(name: str, digits: Dataset, backdoored: nn.Module) -> None:
    """The same network, once with the normalisation's inverse in front."""
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]

    class Fed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = copy.deepcopy(backdoored)

        def forward(self, x: Tensor) -> Tensor:
            one, two = (torch.tensor(v).view(3, 1, 1) for v in (mean, std))
            logits: Tensor = self.inner(x * two + one)
            return logits

    options = {"recipe": quick(name), "precision": "fp32"}
    plain = purify(backdoored, *few(digits), **options).model
    fed = purify(Fed(), *few(digits), mean=mean, std=std, **options).model.inner
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(fed.state_dict()[key], value, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_anp_erases_and_only_cuts_neurons(digits: Dataset, backdoored: nn.Module) -> None:
    images, labels = few(digits, 400)
    options = {"steps": "300", "batch_size": "64", "max_drop": "10"}
    settings = get_settings("anp").with_options({**options, "crop_padding": "0", "flip": "false"})
    result = purify(backdoored, images, labels, recipe=settings, precision="fp32")
    before, after = measured(backdoored, digits), measured(result.model, digits)
    assert before["asr"] > 90 and after["asr"] < 30
    assert after["acc"] > before["acc"] - 20
    old, new = dict(backdoored.named_parameters()), dict(result.model.named_parameters())
    assert set(result.masks) == {"1", "4", "7"}
    for key, value in new.items():
        if key in ("1.weight", "4.weight", "7.weight"):
            assert torch.all((value == 0) | (value == old[key]))
            mask = result.masks[key.removesuffix(".weight")]
            assert mask.shape == value.shape and mask.min() >= 0 and mask.max() <= 1
        else:
            assert torch.equal(value, old[key])
    assert any("are cut" in note for note in result.notes)


@pytest.mark.slow
def test_anp_takes_the_largest_threshold_that_accuracy_allows(
    digits: Dataset, backdoored: nn.Module
) -> None:
    options = {"steps": "60", "batch_size": "64", "max_drop": "3"}
    settings = get_settings("anp").with_options(options)
    images, labels = few(digits, 200)
    result = purify(backdoored, images, labels, recipe=settings, precision="fp32")
    given = problem(backdoored, images, labels)
    allowed = given.accuracy(given.model) - 3
    steps = [0.05 * i for i in range(19)]
    best = max(t for t in steps if given.accuracy(prune(backdoored, result.masks, t)) >= allowed)
    expected = prune(backdoored, result.masks, best)
    for key, value in result.model.state_dict().items():
        assert torch.equal(value, expected.state_dict()[key])


def test_anp_says_when_every_threshold_costs_too_much(
    digits: Dataset, backdoored: nn.Module
) -> None:
    options = {"steps": "2", "batch_size": "64", "max_drop": "-101"}
    settings = get_settings("anp").with_options(options)
    result = purify(backdoored, *few(digits, 200), recipe=settings, precision="fp32")
    assert "masks up to 0.00 are cut, though that costs more than" in result.notes[-1]


def test_soft_weight_masks_change_convolutions_only(digits: Dataset, backdoored: nn.Module) -> None:
    result = purify(backdoored, *few(digits), recipe=quick("anp-swm"), precision="fp32")
    assert set(result.masks) == {"0", "3", "6"}
    for key, value in result.model.state_dict().items():
        expected = backdoored.state_dict()[key]
        if key in ("0.weight", "3.weight", "6.weight"):
            expected = expected * result.masks[key[0]]
            assert 0 < result.masks[key[0]].mean() < 1
        torch.testing.assert_close(value, expected, rtol=0, atol=0)


@pytest.mark.slow
def test_soft_weight_masks_erase(digits: Dataset, backdoored: nn.Module) -> None:
    """For a few points of accuracy; on CIFAR-10 it costs 10 to 15 (AWM paper, Table 4)."""
    options = {"steps": "250", "batch_size": "64", "crop_padding": "0", "flip": "false"}
    settings = get_settings("anp-swm").with_options(options)
    result = purify(backdoored, *few(digits, 400), recipe=settings, precision="fp32")
    before, after = measured(backdoored, digits), measured(result.model, digits)
    assert before["asr"] > 90 and after["asr"] < 40 and after["acc"] > before["acc"] - 5


@pytest.mark.slow
@pytest.mark.parametrize("gamma", ["1e-8", "0"])
def test_masks_under_triggers_erase(digits: Dataset, backdoored: nn.Module, gamma: str) -> None:
    """AWM, and ANP+SWM+ATR (γ 0), for a few points as the AWM paper has them (Table 4)."""
    settings = get_settings("official").with_options(
        {"gamma": gamma, "epochs": "10", "flip": "false"}
    )
    result = purify(backdoored, *few(digits, 400), recipe=settings, precision="fp32")
    before, after = measured(backdoored, digits), measured(result.model, digits)
    assert before["asr"] > 90 and after["asr"] < 20 and after["acc"] > before["acc"] - 5


def test_noise_misleads_within_its_bound(digits: Dataset, backdoored: nn.Module) -> None:
    settings: Any = get_settings("anp").with_options({"eps": "0.3", "batch_statistics": "false"})
    given = problem(backdoored, *few(digits))
    noisy = with_worst_noise(given, settings)
    changed = 0
    for (key, value), (_, old) in zip(
        noisy.named_parameters(), given.model.named_parameters(), strict=True
    ):
        assert torch.all((value - old).abs() <= 0.3 * old.abs() * (1 + 1e-5))
        changed += not torch.equal(value, old)
        assert torch.equal(value, old) or key[0] in "147"
    assert changed == 6  # scale and shift of each
    clean, misled = (
        cross_entropy(given.logits(network, given.images), given.labels)
        for network in (given.model, noisy)
    )
    assert misled > 2 * clean


def test_noise_leaves_its_bound_where_it_is_not_clipped(
    digits: Dataset, backdoored: nn.Module
) -> None:
    """From a random start in [−ε, ε] one step of ε, as ANP's authors' code takes it."""
    settings: Any = get_settings("anp").with_options({"eps": "0.3", "clip_noise": "false"})
    noisy = with_worst_noise(problem(backdoored, *few(digits)), settings)
    values, olds = dict(noisy.named_parameters()), dict(backdoored.named_parameters())
    names = ("1.weight", "4.weight")
    shares = torch.cat([(values[name] / olds[name] - 1).abs() for name in names]).detach()
    assert 0.3 < shares.max() <= 0.6 * (1 + 1e-5)
    assert float(shares.mean()) == pytest.approx(0.3, abs=0.05)


@pytest.mark.slow
def test_ibau_erases(digits: Dataset, backdoored: nn.Module) -> None:
    images, labels = few(digits, 400)
    result = purify(backdoored, images, labels, recipe="ibau")
    before, after = measured(backdoored, digits), measured(result.model, digits)
    assert before["asr"] > 90 and after["asr"] < 30 and after["acc"] > before["acc"] - 5
    assert result.trigger is not None and result.trigger.shape == (3, 32, 32)
    assert len(result.history) == 5 and result.precision.dtype == torch.float32


def test_the_hypergradient_is_the_derivative_through_the_perturbation() -> None:
    """Against finite differences of the outer loss at the inner problem's solution."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    images, labels = torch.rand(6, 3, 2, 2).double(), torch.arange(6) % 3
    given = problem(model, images, labels)
    given.model.requires_grad_(True)
    # A strong norm penalty makes the inner problem convex, a full share the outer loss smooth.
    settings = Ibau(name="test", trigger_l2=2.0, inner_lr=0.2, fixed_point_steps=200, share=1.0)
    weights = list(given.model.parameters())

    def solution() -> Tensor:
        trigger = torch.zeros(3, 2, 2).double()
        for _ in range(300):
            trigger.requires_grad_()
            inner = settings._inner_loss(given, images, labels, trigger)
            trigger = trigger.detach() - 0.2 * torch.autograd.grad(inner, trigger)[0]
        return trigger

    def outer() -> Tensor:
        trigger = solution()
        with torch.no_grad():
            return cross_entropy(given.logits(given.model, images + trigger), labels)

    _, grads = settings._hypergradient(given, solution(), (images, labels), (images, labels))
    direction = [torch.randn_like(weight) for weight in weights]
    slope = sum((g * d).sum() for g, d in zip(grads, direction, strict=True))
    values = []
    for step in (1e-4, -2e-4):
        with torch.no_grad():
            for weight, d in zip(weights, direction, strict=True):
                weight.add_(step * d)
        values.append(outer())
    torch.testing.assert_close(slope, (values[0] - values[1]) / 2e-4, rtol=1e-4, atol=1e-6)


def test_ibau_needs_float32(digits: Dataset, backdoored: nn.Module) -> None:
    with pytest.raises(ValueError, match="precision: ibau needs float32"):
        purify(backdoored, *few(digits), recipe="ibau", precision="bf16")


def test_fine_tuning_learns_the_images_at_hand(digits: Dataset) -> None:
    images, labels = few(digits, 100)
    settings = get_settings("finetune").with_options({"crop_padding": "0", "flip": "false"})
    result = purify(tiny_network().eval(), images, labels, recipe=settings)
    accuracies = [entry["accuracy"] for entry in result.history]
    assert len(accuracies) == 20 and accuracies[-1] > 90 > accuracies[0]


@pytest.mark.slow
def test_fine_tuning_on_few_images_overfits_and_leaves_the_backdoor(
    digits: Dataset, backdoored: nn.Module
) -> None:
    """As the AWM paper has it (its introduction); one image a class, three draws."""
    settings = get_settings("finetune").with_options({"flip": "false"})
    before = measured(backdoored, digits)
    for seed in range(3):
        images, labels, _ = draw_defender(*digits.train(), per_class=1, seed=seed)
        result = purify(backdoored, images, labels, recipe=settings, precision="fp32")
        after = measured(result.model, digits)
        assert after["asr"] > 80 and after["acc"] < before["acc"] - 1


def test_fine_pruning_cuts_dormant_channels_first(digits: Dataset, backdoored: nn.Module) -> None:
    model = copy.deepcopy(backdoored)
    with torch.no_grad():  # two channels that no image wakes
        model[7].weight[[5, 9]] = 0
        model[7].bias[[5, 9]] = -1
        model[11].weight.unflatten(1, (64, 16))[:, [5, 9]] = 1
    settings = get_settings("fine-pruning").with_options(
        {"max_drop": "0", "epochs": "1", "lr": "1e-12", "weight_decay": "0"}
    )
    result = purify(model, *few(digits, 200), recipe=settings, precision="fp32")
    columns = result.model[11].weight.unflatten(1, (64, 16))  # type: ignore[operator]
    cut = {int(c) for c in (columns.abs().amax((0, 2)) < 1e-6).nonzero()}
    assert {5, 9} <= cut and len(cut) < 64
    assert f"{len(cut)} of 64 channels are pruned" in result.notes


@pytest.mark.slow
def test_fine_pruning_erases_what_fine_tuning_leaves(
    digits: Dataset, backdoored: nn.Module
) -> None:
    """As Liu et al. (Fine-Pruning, RAID 2018) have it of backdoors in dormant channels."""
    images, labels = few(digits, 400)
    results = {}
    for name in ("finetune", "fine-pruning"):
        settings = get_settings(name).with_options({"crop_padding": "0", "flip": "false"})
        result = purify(backdoored, images, labels, recipe=settings, precision="fp32")
        results[name] = measured(result.model, digits)
    assert results["finetune"]["asr"] > 80 and results["fine-pruning"]["asr"] < 20
    before = measured(backdoored, digits)
    assert all(after["acc"] > before["acc"] - 2 for after in results.values())


def test_clp_cuts_the_channel_that_stands_out_and_needs_no_data(backdoored: nn.Module) -> None:
    model = copy.deepcopy(backdoored)
    with torch.no_grad():
        model[3].weight[7] *= 100
    images, labels = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    settings = get_settings("clp").with_options({"u": "6"})
    result = purify(model, images, labels, recipe=settings)
    keep = torch.ones(64)
    keep[7] = 0
    assert torch.equal(result.masks["4"], keep)
    scale, shift = result.model[4].weight, result.model[4].bias  # type: ignore[index]
    assert torch.equal(scale, model[4].weight * keep) and torch.equal(shift, model[4].bias * keep)
    assert result.notes[-1] == "1 of 160 channels are cut"
    other = purify(model, torch.zeros(2, 3, 32, 32), labels, recipe=settings)
    assert torch.equal(other.model[4].weight, scale)  # type: ignore[index]


def test_clp_erases_a_backdoor_that_lies_in_channels_that_stand_out(digits: Dataset) -> None:
    """What it assumes of backdoors; here a channel answers to a white square in one place."""
    model = train(tiny_network(), *digits.train(), Plan(epochs=3, batch_size=64))
    clean = measured(model, digits)
    first, norm, second, last_norm, last = (model[i] for i in (0, 1, 3, 4, 8))
    with torch.no_grad():
        first.weight[0], first.bias[0] = 1.0, -40.0
        second.weight[0], second.bias[0] = 0.0, 0.0
        second.weight[0, 0, 1, 1] = 1.0
        for bn in (norm, last_norm):
            bn.running_mean[0], bn.running_var[0], bn.weight[0], bn.bias[0] = 0.0, 1.0, 1.0, 0.0
        last.weight.view(10, 32, 8, 8)[:, 0] = 0.0
        last.weight.view(10, 32, 8, 8)[ATTACK.target, 0, 7, 7] = 20.0
    before = measured(model, digits)
    assert before["asr"] > 95 and before["acc"] > 80
    result = purify(model, *few(digits), recipe="clp", precision="fp32")
    after = measured(result.model, digits)
    assert after["asr"] < 5 and after["acc"] > clean["acc"] - 5
    assert result.masks["1"].tolist() == [0.0] + [1.0] * 15


def test_clp_leaves_a_backdoor_that_lies_elsewhere(digits: Dataset, backdoored: nn.Module) -> None:
    """As BackdoorBench's leaderboard has it of some attacks (there Trojan), at 1 to 2 points."""
    result = purify(backdoored, *few(digits), recipe="clp", precision="fp32")
    before, after = measured(backdoored, digits), measured(result.model, digits)
    assert any((mask == 0).any() for mask in result.masks.values())
    assert after["asr"] > 80 and after["acc"] > before["acc"] - 2


def test_one_shot_problems_have_the_copies_that_awm_has(digits: Dataset) -> None:
    images, labels, _ = draw_defender(*digits.train(), per_class=1, seed=0)
    seen = []

    class Spy(Ibau):
        def erase(self, task: Task) -> Any:
            seen.append(task.images)
            return super().erase(task)

    purify(tiny_network().eval(), images, labels, recipe=Spy(name="spy", rounds=1))
    assert seen[0].shape == (100, 3, 32, 32)
    assert torch.equal(seen[0][:10], images)


@pytest.mark.parametrize("name", ["anp", "clp", "fine-pruning"])
def test_models_that_a_defense_cannot_work_on(name: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    with pytest.raises(ValueError, match="model: expected"):
        purify(model, torch.rand(2, 3, 32, 32), torch.tensor([0, 1]), recipe=name)
