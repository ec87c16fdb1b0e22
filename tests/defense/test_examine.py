"""Looking for a backdoor."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from conftest import tiny_network
from torch import Tensor, nn

from awm_defense import examine, get_recipe, purify
from awm_defense.attacks import make_attack
from awm_defense.cli import main
from awm_defense.data import Dataset, draw_defender
from awm_defense.examine import choose
from awm_defense.train import Plan, train
from awm_defense.triggers import Dense, Kind, Sparse, Warped, kinds
from awm_defense.verdict import Reach, judge

TARGET = 3


@pytest.fixture(scope="module", name="networks")
def fixture_networks(digits: Dataset) -> dict[str, nn.Module]:
    """The same network trained on clean and on poisoned digits."""
    images, labels = digits.train()
    attack = make_attack("badnets", TARGET)
    generator = torch.Generator().manual_seed(0)
    poisoned, poisoned_labels, _ = attack.poison(images, labels, 0.1, generator)
    plan = Plan(epochs=6, batch_size=32, lr=0.05, weight_decay=5e-4)
    found = {}
    for name, data in (("benign", (images, labels)), ("backdoored", (poisoned, poisoned_labels))):
        found[name] = train(tiny_network(), *data, plan)
    return found


@pytest.fixture(scope="module", name="defender")
def fixture_defender(digits: Dataset) -> tuple[Tensor, Tensor]:
    images, labels, _ = draw_defender(*digits.train(), per_class=1, seed=0)
    return images, labels


def test_finds_the_class_of_a_planted_backdoor(
    networks: dict[str, nn.Module], defender: tuple[Tensor, Tensor]
) -> None:
    model, (images, labels) = networks["backdoored"], defender
    before = {name: value.clone() for name, value in model.state_dict().items()}
    verdict = examine(model, images, labels)
    assert verdict.backdoored is True
    assert verdict.target == TARGET
    assert verdict.kind == "added to"
    assert f"class {TARGET}" in str(verdict)
    others = images[labels != TARGET]
    reached = model((others + verdict.trigger).clamp(0, 1)).argmax(1) == TARGET
    size = torch.linalg.vector_norm(verdict.trigger, {"L1": 1, "L2": 2}[verdict.unit])
    assert size <= verdict.norm * (1 + 1e-5)
    assert float(reached.double().mean()) == pytest.approx(verdict.flips)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_purify_leaves_a_clean_network_alone(
    networks: dict[str, nn.Module], defender: tuple[Tensor, Tensor]
) -> None:
    recipe = replace(get_recipe("default"), flip=False, epochs=1)
    result = purify(networks["benign"], *defender, recipe=recipe)
    assert result.verdict and result.verdict.backdoored is False
    assert "clean" in str(result.verdict)
    assert result.history == []
    assert any("clean" in note for note in result.notes)
    weights = networks["benign"].state_dict()
    assert all(torch.equal(weights[key], new) for key, new in result.model.state_dict().items())
    pushed = purify(networks["benign"], *defender, recipe=replace(recipe, examine=False))
    assert pushed.verdict is None
    assert len(pushed.history) == 1


def test_purify_goes_on_where_there_is_a_backdoor(
    networks: dict[str, nn.Module], defender: tuple[Tensor, Tensor]
) -> None:
    recipe = replace(get_recipe("default"), flip=False, epochs=1)
    result = purify(networks["backdoored"], *defender, recipe=recipe)
    assert result.verdict and result.verdict.target == TARGET
    alone = examine(networks["backdoored"], *defender)
    assert torch.equal(result.verdict.margins, alone.margins)
    assert len(result.history) == 1


def test_normalised_networks_are_examined_in_pixel_space(
    networks: dict[str, nn.Module], defender: tuple[Tensor, Tensor]
) -> None:
    class Denormalise(nn.Module):
        def forward(self, fed: Tensor) -> Tensor:
            return fed * 0.25 + 0.5

    fed = nn.Sequential(Denormalise(), networks["backdoored"])
    verdict = examine(fed, *defender, mean=0.5, std=0.25)
    plain = examine(networks["backdoored"], *defender)
    assert (verdict.target, verdict.norm) == (plain.target, plain.norm)
    torch.testing.assert_close(verdict.margins, plain.margins, rtol=0.05, atol=0.5)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 20)])
def test_triggers_stay_within_their_bounds(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, *shape, generator=generator)
    for kind in kinds(images):
        assert list(kind.bounds) == sorted(kind.bounds)
        first = kind.start(4, generator)
        torch.testing.assert_close(kind.apply(images, first), images, rtol=0, atol=0.3)
        bound = kind.bounds[0]
        triggers = first
        for _ in range(20):
            grad = torch.randn(first.shape, generator=generator)
            triggers = kind.step(triggers, grad, bound)
        order = {"L1": 1.0, "L2": 2.0, "pixels": float("inf")}[kind.unit]
        size = torch.linalg.vector_norm(triggers.flatten(1), order, dim=1)
        assert float(size.max()) <= bound * (1 + 1e-5)
        assert float(size.max()) > 0.5 * bound
        changed = kind.apply(images, triggers)
        assert changed.shape == images.shape
        assert float(changed.min()) >= 0
        assert float(changed.max()) <= 1


@pytest.mark.parametrize("make", [Sparse, Dense, Warped])
def test_gradients_of_triggers(make: type[Sparse] | type[Dense] | type[Warped]) -> None:
    images = 0.2 + 0.6 * torch.rand(2, 1, 6, 5, dtype=torch.float64)
    kind: Kind = make(images)
    generator = torch.Generator().manual_seed(0)
    parameters = 0.05 * torch.randn(kind.start(2, generator).shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda values: kind.apply(images, values), parameters.requires_grad_()
    )


def test_a_warp_of_one_pixel_moves_the_image_by_one_pixel() -> None:
    images = torch.rand(2, 3, 8, 12)
    shifts = torch.zeros(2, 2, 4, 4)
    shifts[0, 0] = 1  # to the right in x
    shifts[1, 1] = 1  # down in y
    moved = Warped(images).apply(images, shifts)
    torch.testing.assert_close(moved[0, :, :, :-1], images[0, :, :, 1:], rtol=0, atol=1e-5)
    torch.testing.assert_close(moved[1, :, :-1], images[1, :, 1:], rtol=0, atol=1e-5)


def reach(margins: list[float], bound: float = 5.0, ease: float = 1.0) -> Reach:
    values = torch.tensor(margins)
    triggers = torch.zeros(len(margins), 1, 2, 2)
    return Reach("added to", "L1", bound, triggers, values, (values > 0).double(), ease)


def test_the_smallest_bound_within_which_a_class_stands_out_is_named() -> None:
    honest = [-5.0, -4.0, -6.0, -5.5, -4.5]
    found = judge(
        [reach([-1.0, *honest]), reach([4.0, *honest], 10.0), reach([9.0, *honest], 20.0)]
    )
    assert found.backdoored is True
    assert (found.target, found.norm) == (0, 10.0)
    assert found.score == reach([9.0, *honest], 20.0).score
    # Losing triggers and crowds prove nothing.
    assert judge([reach([-1.0, *honest])]).backdoored is False
    assert judge([reach([4.0, 3.0, 2.0, 1.0, 3.5, 2.5])]).backdoored is False
    # Nor does a small spread alone: it is compared with how sure the network is of clean images.
    tight = [1.2, 1.0, 1.01, 0.99, 1.0, 1.0]
    assert judge([reach(tight, ease=0.1)]).backdoored is True
    assert judge([reach(tight, ease=5.0)]).backdoored is False


def test_too_few_classes_are_not_judged() -> None:
    found = judge([reach([9.0, -5.0, -4.0])])
    assert found.backdoored is None
    assert "can't tell" in str(found)


def test_images_of_as_many_classes_as_there_are_come_first() -> None:
    labels = torch.tensor([4, 4, 4, 0, 0, 7] + [4] * 20)
    assert labels[choose(labels)].tolist()[:5] == [4, 0, 7, 4, 0]
    assert len(choose(labels)) == 10


def test_errors_name_the_argument(networks: dict[str, nn.Module]) -> None:
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    with pytest.raises(ValueError, match=r"mean, std: expected both"):
        examine(networks["benign"], images, labels, mean=0.5)
    with pytest.raises(ValueError, match=r"images: expected pixel values in \[0, 1\]"):
        examine(networks["benign"], images + 1, labels)
    with pytest.raises(ValueError, match=r"labels up to 99"):
        examine(networks["benign"], images, labels + 96)


def test_command(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    from awm_defense.checkpoint import save_model
    from awm_defense.models import build_model

    path = tmp_path_factory.mktemp("examine") / "model.safetensors"
    torch.manual_seed(0)
    save_model(path, build_model("small_vgg", 10))
    given = [str(path), "--arch", "small_vgg", "--num-classes", "10", "--dataset", "digits"]
    assert main(["examine", *given, "--device", "cpu", "--json"]) == 0
    (facts,) = json.loads(capsys.readouterr().out).values()
    assert set(facts) >= {"backdoored", "target", "norm", "unit", "score", "flips", "margins"}
    assert len(facts["margins"]) == 10
