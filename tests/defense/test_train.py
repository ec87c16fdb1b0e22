"""Training learns, is by seed, and goes on after a kill as if there had been none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from awm_defense.attacks import make_attack
from awm_defense.data import Dataset
from awm_defense.metrics import evaluate
from awm_defense.training.loop import Plan, train
from awm_defense.working.compute import Compute, fastest
from tests.defense.conftest import tiny_network

ATTACK = make_attack("badnets", 8)
QUICK = Plan(epochs=8, batch_size=32, lr=0.05)
TINY = Plan(epochs=4, batch_size=16, crop_padding=2, flip=True)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])


def toy_data() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randint(
        256, (50, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return images, torch.arange(50) % 10


def train_a_little(plan: Plan = TINY, **options: object) -> torch.Tensor:
    return weights(train(tiny_network(), *toy_data(), plan, **options))  # type: ignore[arg-type]


@pytest.mark.slow
def test_plants_the_backdoor_that_is_in_the_data(digits: Dataset) -> None:
    images, labels, _ = ATTACK.poison(*digits.train(), 0.1, torch.Generator().manual_seed(0))
    model = train(tiny_network(), images, labels, QUICK)
    assert not model.training
    found = evaluate(model, *digits.test(), ATTACK)
    assert found["acc"] > 93
    assert found["asr"] > 93


def test_clean_data_plants_no_backdoor(digits: Dataset) -> None:
    model = train(tiny_network(), *digits.train(), Plan(epochs=4, batch_size=32, lr=0.05))
    found = evaluate(model, *digits.test(), ATTACK)
    assert found["acc"] > 90
    assert found["asr"] < 20


def test_is_by_seed_and_leaves_the_global_generator() -> None:
    first = train_a_little()
    torch.manual_seed(5)
    expected = torch.rand(3)
    model = tiny_network()
    torch.manual_seed(5)
    train(model, *toy_data(), TINY)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(weights(model), first)
    for other in ({"seed": 1}, {"flip": False}, {"crop_padding": 0}, {"label_smoothing": 0.1}):
        assert not torch.equal(train_a_little(Plan(**{**vars(TINY), **other})), first)


def test_bytes_and_floats_train_alike() -> None:
    images, labels = toy_data()
    model = train(tiny_network(), images.float() / 255, labels, TINY)
    assert torch.equal(weights(model), train_a_little())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_arithmetic_gives_about_the_same(bf16: bool, channels_last: bool) -> None:
    plan = Plan(epochs=1, batch_size=50, lr=0.01)
    reference = train_a_little(plan, compute=Compute(False, False))
    made = train_a_little(plan, compute=Compute(bf16, channels_last))
    torch.testing.assert_close(made, reference, atol=1e-3 if bf16 else 1e-5, rtol=1e-2)


def test_weights_stay_float32_and_contiguous() -> None:
    model = train(tiny_network(), *toy_data(), TINY, compute=Compute(True, True))
    for parameter in model.parameters():
        assert parameter.is_contiguous()
        assert parameter.dtype == torch.float32
        assert parameter.isfinite().all()


def test_fastest_measures_a_copy() -> None:
    model, images = tiny_network(), torch.rand(4, 3, 32, 32)
    before = weights(model).clone()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert isinstance(fastest(model, images, torch.device("cpu")), Compute)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(weights(model), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_learning_rate_is_one_cycle() -> None:
    plan = Plan(lr=0.4, warmup=0.25)
    rates = [plan.learning_rate(step, 100) for step in range(100)]
    assert rates[24] == rates[25] == max(rates) == pytest.approx(0.4)
    assert rates[:25] == sorted(rates[:25])
    assert rates[25:] == sorted(rates[25:], reverse=True)
    assert 0 < rates[99] < 0.001


def test_measures_after_every_epoch_in_eval_mode() -> None:
    modes: list[bool] = []

    def measure(model: nn.Module) -> dict[str, float]:
        modes.append(model.training)
        return {"acc": 1.0}

    assert torch.equal(train_a_little(measure=measure), train_a_little())
    assert modes == [False] * 4


def test_what_was_passed_stays_as_it_is() -> None:
    images, labels = toy_data()
    train(tiny_network(), images, labels, TINY)
    assert torch.equal(images, toy_data()[0])
    assert torch.equal(labels, toy_data()[1])


def test_fewer_images_than_a_batch() -> None:
    images, labels = toy_data()
    model = train(tiny_network(), images[:10], labels[:10], TINY)
    assert weights(model).isfinite().all()


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_train import TINY, tiny_network, toy_data, train
calls = []
def measure(model):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)  # epoch 3 is computed, but not saved
    return {}
train(tiny_network(), *toy_data(), TINY, checkpoint=Path(sys.argv[1]), measure=measure)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_it_had_not_been_killed(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    command = [sys.executable, "-c", KILLED, str(path), os.path.dirname(__file__)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert torch.load(path, weights_only=True)["epoch"] == 2
    assert list(tmp_path.iterdir()) == [path]
    # What a kill in the middle of writing leaves does no harm.
    path.with_suffix(".part").write_bytes(b"half")
    epochs: list[int] = []

    def count(_: nn.Module) -> dict[str, float]:
        epochs.append(1)
        return {}

    resumed = train_a_little(checkpoint=path, measure=count)
    assert len(epochs) == 2
    assert torch.equal(resumed, train_a_little())


Change = Callable[[dict[str, Any]], object]


def group(**changes: object) -> Change:
    return lambda state: state["optimizer"]["param_groups"][0].update(changes)


def momentum(change: Callable[[torch.Tensor], object]) -> Change:
    def apply(state: dict[str, Any]) -> None:
        entry = state["optimizer"]["state"][0]
        entry["momentum_buffer"] = change(entry["momentum_buffer"])

    return apply


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.update(epoch=10**9), "an epoch from 1 to 4, got 1000000000"),
        (lambda state: state.update(epoch=0), "an epoch from 1 to 4, got 0"),
        (lambda state: state.update(epoch=True), "an epoch from 1 to 4, got True"),
        (lambda state: state.pop("optimizer"), "optimizer"),
        (group(momentum="\x1b[2J"), r"momentum: expected 0\.9, got \\x1b\[2J"),
        (group(momentum=-5.0), r"momentum: expected 0\.9, got -5\.0"),
        (group(weight_decay=1e30), r"weight_decay: expected 0\.0002, got 1e\+30"),
        (group(maximize=True), "maximize: expected False, got True"),
        (group(nesterov=False), "nesterov: expected True, got False"),
        (group(fused=torch.ones(2)), "fused|ambiguous"),
        (group(params=[]), "params: expected"),
        (lambda state: state["optimizer"]["param_groups"].append({}), "too many values"),
        (
            lambda state: state["optimizer"]["param_groups"][0].pop("maximize"),
            "expected False, got None",
        ),
        (lambda state: state["optimizer"].update(state={"\x1b": {}}), "list indices"),
        (lambda state: state["optimizer"].update(state={99: {}}), "out of range"),
        (momentum(lambda own: own[:1]), r"momentum 0: expected torch.float32 of shape"),
        (momentum(torch.Tensor.double), "got torch.float64 of shape"),
        (momentum(lambda own: own / 0), "momentum 0: expected finite numbers"),
        (momentum(lambda own: 5), "momentum 0: expected a tensor, got 5"),
        (momentum(lambda own: own[:1, :1, :1, :1].expand(1 << 20, *own.shape[1:])), "whole file"),
    ],
)
def test_goes_on_from_its_own_training_only(change: Change, says: str, tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    train_a_little(checkpoint=path)
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    with pytest.raises(ValueError, match=says) as caught:
        train_a_little(checkpoint=path)
    assert str(path) in str(caught.value) and str(caught.value).isprintable()


def test_momentum_gets_memory_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    train_a_little(replace(TINY, epochs=2), checkpoint=path)
    state = torch.load(path, weights_only=True)
    momentum(lambda own: own[:1].expand_as(own))(state)
    torch.save(state, path)
    assert train_a_little(checkpoint=path).isfinite().all()


def test_wrong_arguments() -> None:
    images, labels = toy_data()
    with pytest.raises(ValueError, match="got 50 and 5"):
        train(tiny_network(), images, labels[:5], TINY)
    with pytest.raises(ValueError, match="epochs: expected an integer ≥ 1, got 0"):
        Plan(epochs=0, batch_size=32)


def test_divergence_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"lr: with 1e\+30 the loss became"):
        train_a_little(Plan(epochs=1, batch_size=10, lr=1e30))


def test_every_epoch_can_have_images_of_its_own(digits: Dataset) -> None:
    images, labels = digits.train()
    images, labels = images[:64], labels[:64]
    asked: list[int] = []

    def redraw(epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(epoch)
        return (images, labels) if epoch else (images.flip(0), labels.flip(0))

    plan = Plan(epochs=2, batch_size=64, crop_padding=0)
    model = train(tiny_network(), images, labels, plan, redraw=redraw)
    assert asked == [0, 1]
    plain = train(tiny_network(), images, labels, plan)
    one, other = (dict(network.named_parameters()) for network in (model, plain))
    assert any(not torch.equal(one[name], other[name]) for name in one)
