"""The engine: equal to the plain loop, silent towards the host, the same on every run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from awm_defense import Recipe, get_recipe, purify, purify_many
from awm_defense.awm.batches import Batches
from awm_defense.awm.capture import Captured
from awm_defense.awm.engine import Engine
from awm_defense.awm.mask_phase import MaskPhase
from awm_defense.awm.schedule import PRESSURE, Under
from awm_defense.examination.growth import Growth
from awm_defense.examination.search import Search
from awm_defense.examination.verdict import Verdict
from awm_defense.models import build_model
from awm_defense.networks.logits import Reading
from awm_defense.pixel_model import PixelModel
from awm_defense.working import network
from awm_defense.working.mixed_conv import MixedConv2d, Passes, use_passes
from awm_defense.working.network import WorkingNetwork
from awm_defense.working.precision import Precision, _fastest
from bench.plain_loop import plain_purify

BF16 = Precision(torch.bfloat16)


@pytest.fixture(autouse=True)
def fixture_grow_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """In two steps of forty; what triggers lead to is tested elsewhere."""
    monkeypatch.setattr("awm_defense.examination.growth.STEPS", 2)


class Depthwise(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(),
            nn.Conv2d(16, 24, 1, bias=False),
            nn.BatchNorm2d(24),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(96, 10),
        )


class NoNorm(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 12, 5, stride=2),
            nn.Tanh(),
            nn.Conv2d(12, 8, 3, dilation=2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(800, 10),
        )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "small_vgg": lambda: build_model("small_vgg", 10),
    "resnet18": lambda: build_model("resnet18", 10),
    "depthwise": Depthwise,
    "no_norm": NoNorm,
}


def make(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = NETWORKS[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model.eval()


def data(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(10, 3, 32, 32, generator=generator).to(dtype), torch.arange(10)


def quick(name: str = "official", **options: Any) -> Recipe:
    base = {"epochs": "2", "inner_epochs": "1", "examine": "false"}
    return get_recipe(name).with_options({**base, **{k: str(v) for k, v in options.items()}})


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_two_epochs_equal_the_plain_loop(name: str, dtype: torch.dtype) -> None:
    """Same batches, same Δ, same masks, to rounding.

    Adam divides a gradient by its own size, so rounding of a gradient near zero moves a mask by
    up to a learning rate: in float32 a few masks in a thousand may differ by that.
    """
    model, (images, labels) = make(name).to(dtype), data(dtype)
    recipe = quick(copies=1, batch_size=10)
    masks, trigger = plain_purify(model, images, labels, recipe=recipe, seed=3)
    result = purify(model, images, labels, recipe=recipe, seed=3, precision="fp32")
    expected = torch.cat([mask.flatten() for mask in masks.values()])
    got = torch.cat([result.masks[layer].flatten() for layer in masks])
    assert (expected < 0.97).any() and trigger.abs().max() > 0
    if dtype == torch.float64:
        torch.testing.assert_close(result.trigger, trigger, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    else:
        torch.testing.assert_close(result.trigger, trigger, rtol=0.05, atol=5e-4)
        error = (got - expected).abs()
        assert error.max() <= 2 * recipe.mask_lr
        assert (error > 0.2 * recipe.mask_lr).float().mean() < 0.005


@pytest.mark.slow
def test_the_float32_step_equals_the_plain_one_without_adam() -> None:
    model, (images, labels) = make("small_vgg"), data()
    recipe = quick(mask_optimizer="sgd", mask_lr=10)
    masks, _ = plain_purify(model, images, labels, recipe=recipe, seed=3)
    result = purify(model, images, labels, recipe=recipe, seed=3, precision="fp32")
    assert any((mask < 0.999).any() for mask in masks.values())
    for layer, mask in masks.items():
        torch.testing.assert_close(result.masks[layer], mask, rtol=0, atol=1e-4)


TRIGGER = torch.eye(32).repeat(3, 1, 1)
VERDICT = Verdict(True, 3, "added to", 5.0, "L1", 9.0, 1.0, TRIGGER, torch.zeros(10))


def engine(
    recipe: Recipe, precision: Precision, device: str = "cpu", *, epoch: int = 0, held: bool = False
) -> Engine:
    """One whose `epoch` is the next; `held` says that the backdoor was back in the one before."""
    images, labels = (tensor.to(device) for tensor in data())
    recipe = recipe.resolve(10, 10, 3072).for_layers(1000, 1.0)
    batches = Batches(images, labels, recipe, True, 0)
    pixel_model = PixelModel(make("depthwise"), torch.zeros(1, 3, 32, 32), device=device)
    original = "original" in (recipe.trigger_targets, recipe.mask_targets)
    network = WorkingNetwork(
        pixel_model.copy(torch.zeros(1, 3, 32, 32)),
        images,
        batch=2 * batches.batch,
        layers=recipe.layers,
        moments=2 if recipe.mask_optimizer == "adam" else 0,
        keeps_original=original,
        precision=precision,
        notes=[],
    )
    made = Engine(network, batches, recipe, captured=False)
    if recipe.grown:
        made.follow(VERDICT)
        if held:
            made.last = replace(made.plan(epoch - 1), pressure=PRESSURE)
            made.growth.alive = lambda *_: False  # type: ignore[method-assign]
        planned = made.plan(epoch)
        if planned.natural:
            made.mask_phase(planned).weigh()
    return made


def steps(running: Engine, epoch: int) -> dict[str, Callable[[], None]]:
    trigger_phase, mask_phase = running.trigger_phase, running.mask_phase(running.plan(epoch))
    return {
        "label_images": trigger_phase.label_images,
        "trigger_step": trigger_phase.step,
        "mask_step": mask_phase.step,
    }


STEPS = ("label_images", "trigger_step", "mask_step")
RECIPES = {
    "official": quick(),
    "default": quick("default"),
    "default, on clean images alone": quick("default"),
    "default, held": quick("default"),
    "paper": quick("paper"),
}
EPOCHS = {"default, on clean images alone": 2, "default, held": 2}
UNDER = {
    "default": Under.BOTH,
    "default, on clean images alone": Under.NOTHING,
    "default, held": Under.GROWN,
}


def engine_of(name: str, precision: Precision, device: str = "cpu") -> Engine:
    given = {"epoch": EPOCHS.get(name, 0), "held": name == "default, held"}
    return engine(RECIPES[name], precision, device, **given)  # type: ignore[arg-type]


class NoHost(TorchDispatchMode):
    """Fails on what a CUDA graph can't hold: reading a value, or a tensor that is on the host.

    The device is "meta", which has no values either: what does not ask for them there runs on
    CUDA without waiting.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        assert func is not torch.ops.aten._local_scalar_dense.default, (
            ".item() waits for the device"
        )
        assert func is not torch.ops.aten.nonzero.default, f"{func} waits for the device"
        result = func(*args, **kwargs)
        for value in torch.utils._pytree.tree_leaves((args, kwargs, result)):
            if isinstance(value, Tensor):
                assert value.device.type == "meta", f"{func} on {value.device}"
        return result


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("precision", [Precision(), BF16], ids=["fp32", "bf16"])
def test_steps_never_touch_the_host(
    step: str, name: str, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Folding is checked on values before the first step, and so is what logits are.
    monkeypatch.setattr(Reading, "settle", lambda *args: [])
    monkeypatch.setattr("awm_defense.pixel_model.find_device", lambda _, name: torch.device(name))
    monkeypatch.setattr(WorkingNetwork, "_change", lambda *args: 0.0)
    # Images are chosen before it, too.
    monkeypatch.setattr("awm_defense.awm.engine.pick_images", torch.zeros_like)
    epoch, running = EPOCHS.get(name, 0), engine_of(name, precision, "meta")
    assert running.mask_phase(running.plan(epoch)).under is UNDER.get(name, Under.DELTA)
    running.buffers.start_phase()
    running.network.flat.require_grad(step == "mask_step")
    with NoHost():
        steps(running, epoch)[step]()


def test_the_host_check_can_fail() -> None:
    with pytest.raises(AssertionError, match="on cpu"), NoHost():
        torch.zeros(1, device="meta") + torch.zeros(1)


def storages(running: Engine) -> dict[str, int]:
    flat = running.network.flat
    found = {**vars(running.buffers), **vars(flat), **running.buffers.table._asdict()}
    found |= {f"weight {i}": p for i, p in enumerate(flat.parameters)}
    found |= {f"grad {i}": p.grad for i, p in enumerate(flat.parameters)}
    return {key: v.data_ptr() for key, v in found.items() if isinstance(v, Tensor)}


@pytest.mark.parametrize("name", RECIPES)
def test_steps_work_in_the_same_buffers(name: str) -> None:
    """A replayed graph reads and writes where it did when captured."""
    epoch, running = EPOCHS.get(name, 0), engine_of(name, Precision())
    running.buffers.start_phase()
    running.network.flat.require_grad(True)
    before = storages(running)
    assert len(before) > 15
    for step in steps(running, epoch).values():
        step()
    running.buffers.start_phase()
    assert storages(running) == before


def test_steps_do_what_their_buffers_say() -> None:
    running = engine(RECIPES["official"], Precision())
    phase, buffers = running.trigger_phase, running.buffers
    buffers.start_phase()
    phase.label_images()
    logits = running.network.logits(running.data.images)
    assert torch.equal(buffers.predictions, logits.argmax(1))
    for _ in range(running.data.steps):
        phase.step()
    assert buffers.position.item() == running.data.steps
    assert (buffers.trigger_losses > 0).all() and buffers.delta.abs().max() > 0


def test_masks_are_held_to_the_original_at_a_temperature() -> None:
    running = engine(quick("default", temperature=3.0), Precision())
    network = running.network
    network.flat.restore(torch.full_like(network.flat.mask, 0.8))
    running.buffers.start_phase()
    phase = running.mask_phase(running.plan(0))
    images = phase.take().images
    with torch.no_grad():
        logits, original = network.logits(images), network.forward(network.original, images)
    expected = -((original / 3).softmax(1) * (logits / 3).log_softmax(1)).sum(1).mean()
    network.flat.require_grad(True)
    phase.step()
    torch.testing.assert_close(running.buffers.mask_losses[0, 0], 3**2 * expected)


@pytest.mark.parametrize("name", ["default", "default, on clean images alone", "default, held"])
def test_losses_are_of_what_the_steps_are_under(name: str) -> None:
    """Clean images, those under Δ, and those under grown triggers, each in its column."""
    running = engine_of(name, Precision())
    phase = running.mask_phase(running.plan(EPOCHS.get(name, 0)))
    buffers, network = running.buffers, running.network
    buffers.weights.copy_(torch.tensor([0.3, 0.7]))
    buffers.delta.fill_(0.2)
    running.growth.grown.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    buffers.start_phase()
    buffers.mask_losses.fill_(-1)
    batch = phase.take()
    assert batch.grown is not None
    shown = {
        0: batch.images,
        1: (batch.images + 0.2).clamp(0, 1),
        2: running.growth.apply(batch.images, *batch.grown),
    }
    columns = [0, *([1] if Under.DELTA in phase.under else [])]
    columns += [2] if Under.GROWN in phase.under else []
    heat = running.recipe.temperature
    with torch.no_grad():
        original = (network.forward(network.original, batch.images) / heat).softmax(1)
        expected = {
            at: heat**2 * cross_entropy(network.logits(shown[at]) / heat, original)
            for at in columns
        }
    network.flat.require_grad(True)
    losses, total = phase.losses(batch)
    torch.testing.assert_close(losses, torch.stack(list(expected.values())))
    clean, *others = expected.values()
    torch.testing.assert_close(total.double(), (0.3 * clean + 0.7 * sum(others)).double())
    phase.step()
    written = [float(expected[at]) if at in columns else -1.0 for at in range(3)]
    assert buffers.mask_losses[0].tolist() == pytest.approx(written, rel=1e-4)
    assert (buffers.mask_losses[1:] == -1).all()


def test_what_comes_back_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = quick("default", grown=4, trigger_epochs=1, epochs=4, batch_size=4)
    running = engine(recipe, Precision())
    flat, images = running.network.flat, running.data.images
    original = running.network.logits(images).detach()
    hold, run = Growth.hold, MaskPhase.run
    answers, asked, held_to = iter([True, True, False]), [], []
    begun: list[tuple[Tensor, Tensor]] = []
    learnt: list[Tensor] = []

    def alive(self: Growth, target: int, logits: object) -> bool:
        asked.append(target)
        return next(answers)

    def holding(self: Growth, verdict: Verdict, logits: Callable[[Tensor], Tensor]) -> None:
        held_to.append(logits(images).detach())
        hold(self, verdict, logits)

    def learning(self: MaskPhase, rate: float) -> None:
        begun.append((flat.mask.clone(), flat.weight.clone()))
        run(self, rate)
        learnt.append(flat.mask.clone())

    monkeypatch.setattr(Growth, "alive", alive)
    monkeypatch.setattr(Growth, "hold", holding)
    monkeypatch.setattr(MaskPhase, "run", learning)
    # Triggers come from noise: there is no need for what leads to the class.
    monkeypatch.setattr("awm_defense.awm.engine.Search", None)
    under, weights, kept, entries, ended = [], [], [], [], []
    for number in range(4):
        grown, masks = running.growth.grown.clone(), (flat.mask.clone(), flat.weight.clone())
        entries.append(running.epoch(number))
        ended.append(flat.mask.clone())
        assert all(map(torch.equal, begun[number], masks))
        assert number == 0 or float(masks[0].min()) < 1
        assert running.last is not None
        under.append(running.last.under)
        weights.append(running.buffers.weights.tolist())
        kept.append((running.growth.grown == grown).flatten(1).all(1).tolist())
    assert under == [Under.BOTH, Under.BOTH, Under.GROWN, Under.GROWN]
    # The first epoch is under triggers anyway.
    assert asked == [VERDICT.target] * 3
    assert weights[0] == [recipe.alpha, pytest.approx(0.1)]
    # 9 times 0.1, and half as much again where it is not gone, of the same sum.
    assert weights[1:] == [
        pytest.approx([0.9 / (0.9 + b), b / (0.9 + b)]) for b in (0.9, 1.35, 1.35)
    ]
    # What the network ends with is the mean of the two last.
    torch.testing.assert_close(ended[3], (learnt[2] + learnt[3]) / 2)
    assert all(map(torch.equal, ended[:3], learnt[:3])) and not torch.equal(ended[3], learnt[3])
    # All of them are new when it comes back, half of them on the network as it came; from then on
    # the other half is grown anew.
    assert len(held_to) == 1 and torch.equal(held_to[0], original)
    assert kept == [[True] * 4, [False] * 4, *[[True, True, False, False]] * 2]
    assert ["trigger_loss" in entry for entry in entries] == [True, True, False, False]
    assert ["perturbed_loss" in entry for entry in entries] == [True, True, False, False]
    assert all("grown_loss" in entry for entry in entries)


@pytest.mark.parametrize("by_size", [False, True])
def test_what_is_left_is_sought_by_the_way_it_was_found(
    by_size: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = engine(quick("default", grown=5, batch_size=4), Precision())
    second = torch.ones_like(TRIGGER)
    found = replace(VERDICT, second=second, radii=torch.ones(10) if by_size else None)
    running.follow(found)
    started: list[tuple[Verdict, dict[str, object]]] = []
    monkeypatch.setattr(Search, "one_class", lambda *_: TRIGGER + 1)
    monkeypatch.setattr(Growth, "start", lambda _, *given, **how: started.append((given[0], how)))
    monkeypatch.setattr(Growth, "hold", None)
    for number in range(2):
        running.epoch(number)
    ((again, how),) = started
    assert how == {"keep": 2, "condensed": by_size}
    if by_size:
        assert again is found
    else:
        assert torch.equal(again.trigger, TRIGGER + 1) and again.second is None


def test_meanwhile_the_network_is_as_it_came() -> None:
    running = engine(quick("default", grown=2), Precision())
    flat, images = running.network.flat, running.data.images
    original = running.network.logits(images)
    flat.restore(torch.rand(flat.mask.shape, generator=torch.Generator().manual_seed(0)))
    before = flat.mask.clone(), flat.weight.clone()
    assert not torch.allclose(running.network.logits(images), original)
    with pytest.raises(KeyError), flat.unmasked():
        assert torch.equal(running.network.logits(images), original)
        raise KeyError
    assert torch.equal(flat.mask, before[0]) and torch.equal(flat.weight, before[1])


@pytest.mark.parametrize(("grown", "following"), [(0, True), (4, False)])
def test_without_a_class_nothing_comes_back(
    grown: int, following: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = engine(quick("default", grown=grown, trigger_epochs=1, batch_size=4), Precision())
    monkeypatch.setattr(Growth, "alive", lambda *_: pytest.fail("there is nothing to ask for"))
    running.follow(VERDICT if following else None)
    for number in range(2):
        running.epoch(number)
        assert running.last is not None
        assert running.last.under is Under.DELTA and not running.last.held


def test_the_next_network_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first epoch is not after the last one of the network before it."""
    running = engine(quick("default", grown=2, trigger_epochs=1, batch_size=4), Precision())
    monkeypatch.setattr(Growth, "alive", lambda *_: True)
    for _ in range(2):
        running.follow(VERDICT)
        held = []
        for number in range(2):
            running.epoch(number)
            assert running.last is not None
            held.append(running.last.held)
        assert held == [False, True]


def test_losses_weigh_what_the_recipe_says_exactly() -> None:
    running = engine(quick("default", grown=2, batch_size=4), Precision())
    running.epoch(0)
    recipe = running.recipe
    assert running.buffers.weights.tolist() == [recipe.alpha, recipe.beta]


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [quick(), quick("default")])
def test_many_models_give_what_each_gives_alone(recipe: Recipe) -> None:
    models, (images, labels) = [make("depthwise", seed) for seed in (0, 1, 0)], data()
    states = [{k: v.clone() for k, v in m.state_dict().items()} for m in models]
    many = list(purify_many(models, images, labels, recipe=recipe, precision="fp32"))
    alone = [purify(m, images, labels, recipe=recipe, precision="fp32") for m in models]
    for one, other in zip(many, alone, strict=True):
        assert equal(one.masks, other.masks)
        assert equal(one.model.state_dict(), other.model.state_dict())
        assert one.history == other.history
    assert equal(many[0].masks, many[2].masks) and not equal(many[0].masks, many[1].masks)
    assert all(equal(m.state_dict(), s) for m, s in zip(models, states, strict=True))


def test_another_architecture_is_refused() -> None:
    images, labels = data()
    results = purify_many([make("depthwise"), make("no_norm")], images, labels, recipe=quick())
    next(results)
    with pytest.raises(ValueError, match="models: expected"):
        next(results)


class Untraceable(Depthwise):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if bool(x.sum() > 0) else -x)


def test_one_that_folds_otherwise_is_refused() -> None:
    images, labels = data()
    second = Untraceable().eval()
    results = purify_many([make("depthwise"), second], images, labels, recipe=quick())
    next(results)
    with pytest.raises(ValueError, match=r"models: .* not folded: torch.fx can't trace"):
        next(results)


def test_interrupted_it_returns_the_last_whole_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (images, labels) = make("depthwise"), data()
    one = purify(model, images, labels, recipe=quick(epochs=1), precision="fp32")
    step, calls = MaskPhase.step, 0

    def interrupting(self: MaskPhase) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(MaskPhase, "step", interrupting)
    two = purify_many([model, model], images, labels, recipe=quick(), precision="fp32")
    (result,) = two
    assert equal(result.masks, one.masks) and len(result.history) == 1
    assert result.interrupted and any("in epoch 2" in note for note in result.notes)


def test_mixed_passes_are_the_convolution() -> None:
    """Each pass in its dtype, against float64."""
    passes = Passes(torch.float32, torch.bfloat16, torch.float32)
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2).requires_grad_(False)
    exact = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2).double()
    exact.load_state_dict(conv.state_dict())
    conv.weight.requires_grad_()
    use_passes(conv_holder := nn.Sequential(conv), {"0": passes})
    assert type(conv) is MixedConv2d
    x = torch.randn(3, 4, 9, 7)
    grads = []
    for module, value in ((conv_holder, x), (exact, x.double())):
        value = value.clone().requires_grad_()
        y = module(value)
        y.square().sum().backward()
        weight = next(module.parameters()).grad
        grads.append((y.detach(), weight, value.grad))
    (y, weight, grad_x), (y64, weight64, grad_x64) = grads
    assert y.dtype == weight.dtype == grad_x.dtype == torch.float32
    torch.testing.assert_close(y.double(), y64, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weight.double(), weight64, rtol=1e-4, atol=1e-4)
    error = (grad_x.double() - grad_x64).abs().max() / grad_x64.abs().max()
    assert 1e-5 < error < 2e-2, "the input gradient is the one in bfloat16"


@pytest.mark.slow
def test_bfloat16_stays_close_and_repeats() -> None:
    model, (images, labels) = make("small_vgg"), data()
    full = purify(model, images, labels, recipe=quick(), precision="fp32")
    half = purify(model, images, labels, recipe=quick(), precision="bf16")
    again = purify(model, images, labels, recipe=quick(), precision=half.precision)
    assert half.precision.dtype == torch.bfloat16 and equal(half.masks, again.masks)
    a, b = (torch.cat([m.flatten() for m in r.masks.values()]) for r in (full, half))
    assert all(m.dtype == torch.float32 for m in half.masks.values())
    assert torch.corrcoef(torch.stack([1 - a, 1 - b]))[0, 1] > 0.9


def test_bfloat16_is_refused_where_logits_would_change(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cancelling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 10, 32)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x).flatten(1)
            return 3 * ((y + 1000) - 1000)

    torch.manual_seed(0)
    model = Cancelling()
    chosen: list[Any] = []

    def measure(*_: object) -> Precision:
        chosen.append(1)
        return BF16

    monkeypatch.setattr(network, "measure", measure)
    result = purify(model, *data(), recipe=quick())
    assert chosen and result.precision == Precision()
    assert any("float32 is used" in note for note in result.notes)


@pytest.mark.parametrize("precision", ["half", "bf16"])
def test_bad_precision_is_named(precision: str) -> None:
    model, (images, labels) = make("depthwise").double(), data(torch.float64)
    with pytest.raises(ValueError, match="precision:"):
        purify(model, images, labels, recipe=quick(), precision=precision)


def test_a_step_is_captured_once_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stand-in for CUDA graphs: every call does the step exactly once."""
    log: list[str] = []

    class Stream:
        device = torch.device("cuda", 0)

        def __init__(self, device: object = None) -> None:
            pass

        def wait_stream(self, other: object) -> None:
            log.append("wait")

        def __enter__(self) -> None:
            log.append("side stream")

        def __exit__(self, *error: object) -> None:
            log.append("back")

    class Graph:
        def replay(self) -> None:
            log.append("replay")

    @contextlib.contextmanager
    def graph(captured: Graph, pool: object, stream: object) -> Iterator[None]:
        log.append("capture")
        yield

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    step = Captured(lambda: log.append("step"), torch.device("cuda", 0), None, True)
    for _ in range(5):
        step()
    warm_up = ["wait", "side stream", "step", "back", "wait"]
    assert log == [*warm_up, *warm_up, "capture", "step", "replay", "replay", "replay"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("recipe", ["official", "default"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_captured_and_eager_masks_are_the_same_bits(recipe: str, precision: str) -> None:
    model, (images, labels) = make("resnet18"), data()
    options = {"recipe": quick(recipe, inner_epochs=3), "precision": precision, "device": "cuda"}
    captured = purify(model, images, labels, **options)
    eager = purify(model, images, labels, captured=False, **options)
    assert equal(captured.masks, eager.masks) and captured.history == eager.history


def test_precision_sets_switches_only_meanwhile() -> None:
    cudnn: Any = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul

    def switches() -> tuple[object, ...]:
        return cudnn.conv.fp32_precision, matmul.fp32_precision, cudnn.deterministic

    before = switches()
    for tf32, expected in ((True, "tf32"), (False, "ieee")):
        with pytest.raises(KeyError), Precision(tf32=tf32).active():
            assert switches() == (expected, expected, True)
            raise KeyError
        assert switches() == before


@pytest.mark.parametrize("older", [True, False])
def test_precision_works_with_either_kind_of_switch(older: bool) -> None:
    """PyTorch forbids reading the older switches where the newer ones were set."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        if older:
            matmul.allow_tf32 = True
        else:
            matmul.fp32_precision = "tf32"
        with Precision().active():
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "tf32"
        assert not older or matmul.allow_tf32
    finally:
        if older:
            matmul.allow_tf32 = False
        matmul.fp32_precision = before


@pytest.mark.slow
def test_the_global_random_state_is_untouched() -> None:
    model, (images, labels) = make("small_vgg"), data()
    _fastest.cache_clear()
    before = torch.get_rng_state()
    purify(model, images, labels, recipe=quick("default"))
    assert torch.equal(torch.get_rng_state(), before)
