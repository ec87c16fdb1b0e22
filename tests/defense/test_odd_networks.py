"""Networks that are wrapped, parametrised, hooked, in half precision, or return what they like."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from awm_defense import BASELINES, examine, get_recipe, purify, synthesize
from awm_defense.attacks import make_attack
from awm_defense.awm.engine import make_engine
from awm_defense.metrics import accuracy, evaluate
from awm_defense.networks.masked import find_weights
from awm_defense.pixel_model import PixelModel

X = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(6) % 3
# Not `default`: its first trigger starts where the loss is flat, so rounding has a say in it.
QUICK = get_recipe("paper").with_options({"epochs": 1, "batch_size": 6, "layers": "auto"})


class Small(nn.Module):
    """Two convolutions and a head; `make` is for what becomes of their output."""

    def __init__(self, give: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, 3)
        self.give = give

    def forward(self, x: Tensor) -> Any:
        x = self.conv2(F.relu(self.bn(self.conv1(x))))
        return self.give(self.head(x.mean((2, 3))))


def small(give: Callable[[Tensor], Any] = lambda logits: logits) -> Small:
    torch.manual_seed(0)
    return Small(give)


def erased(model: nn.Module, **options: Any) -> Any:
    """The result; checks that the model is as it was, and what always holds."""
    before = copy.deepcopy(model.state_dict())
    result = purify(model, X, Y, recipe=options.pop("recipe", QUICK), precision="fp32", **options)
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert type(result.model) is type(model)
    assert any((mask < 1).any() for mask in result.masks.values())
    return result


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor


@pytest.mark.parametrize(
    "give",
    [
        lambda logits: (logits, logits.sum()),
        lambda logits: [None, logits],
        lambda logits: {"loss": logits.sum(), "logits": logits},
        lambda logits: Output(logits, torch.zeros(6, 5)),
    ],
    ids=["tuple", "list", "dict", "attribute"],
)
def test_logits_are_found_in_the_output(give: Callable[[Tensor], Any]) -> None:
    plain = erased(small())
    found = erased(small(give))
    assert all(torch.allclose(found.masks[key], mask) for key, mask in plain.masks.items())
    assert accuracy(small(give), X, Y) == accuracy(small(), X, Y)
    assert str(examine(small(give), X, Y)) == str(examine(small(), X, Y))
    for name in ("finetune", "ibau"):
        rival(name, small(give))


def rival(name: str, model: nn.Module, **options: Any) -> dict[str, Any]:
    """The weights that a rival makes in a few steps."""
    fewest = {"epochs": 1, "rounds": 1, "steps": 2}
    settings = BASELINES[name]
    known = {field.name for field in fields(settings)}
    few = settings.with_options({key: fewest[key] for key in known & fewest.keys()})
    return purify(model, X, Y, recipe=few, precision="fp32", **options).model.state_dict()


RUNS: dict[str, Callable[..., Any]] = {
    "purify": lambda model, **options: (
        purify(model, X, Y, recipe=QUICK, precision="fp32", **options).masks
    ),
    "examine": lambda model, **options: examine(model, X, Y, **options).margins,
    "accuracy": lambda model, **options: accuracy(model, X, Y, **options),
    "evaluate": lambda model, **options: evaluate(
        model, X, Y, make_attack("badnets", 2), **options
    ),
    "synthesize": lambda model, **options: synthesize(model, (3, 8, 8), classes=3, **options)[0],
    **{name: partial(rival, name) for name in BASELINES},
}


@pytest.mark.filterwarnings("ignore:the network classifies")
@pytest.mark.parametrize("name", RUNS)
def test_logits_can_be_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for steps in ("search.CONDENSING", "search.STEPS"):
        monkeypatch.setattr(f"awm_defense.examination.{steps}", 2)
    monkeypatch.setattr("awm_defense.synthesis.STEPS", 2)
    run = RUNS[name]
    model = small(lambda logits: {"a": logits[..., None], "b": {"c": logits}})
    with pytest.raises(TypeError, match=r"^model: expected logits \(n, classes\), got dict; .*$"):
        run(model)
    with pytest.raises(ValueError, match=r"^logits: expected .* it failed: KeyError: 'x'$"):
        run(model, logits=lambda output: output["x"])
    with pytest.raises(ValueError, match=r"^logits: expected .* it failed: RuntimeError: .*$"):
        run(model, logits=lambda output: output["b"]["c"].view(-1, 1000))
    found = run(model, logits=lambda output: output["b"]["c"])
    torch.testing.assert_close(found, run(small()), atol=0, rtol=0, equal_nan=True)


class Focusing(nn.Module):
    """Attention by PyTorch's own op, and a weight that no forward pass uses."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.unused = nn.Linear(8, 3), nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1, 2)
        return self.head(F.scaled_dot_product_attention(x, x, x).mean(1))


def test_the_rival_that_needs_second_derivatives() -> None:
    torch.manual_seed(0)
    model = Focusing()
    found = rival("ibau", model)
    assert not torch.equal(found["head.weight"], model.head.weight)
    assert torch.equal(found["unused"], model.unused)
    with pytest.raises(ValueError, match=r"^model: .* second derivatives for ibau: .*hardsigmoid"):
        rival("ibau", nn.Sequential(small(), nn.Hardsigmoid()))


def test_what_names_the_logits_must_return_them() -> None:
    with pytest.raises(TypeError, match="logits: expected a function or None, got str"):
        accuracy(small(), X, Y, logits="head")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"logits: expected a function to logits .* to list"):
        accuracy(small(), X, Y, logits=list)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"logits: expected a function to logits .* to \(2,\)"):
        accuracy(small(), X, Y, logits=lambda output: output[:, 0])


def test_a_network_is_tried_on_the_given_images_alone() -> None:
    seen: list[Any] = []

    def note(logits: Tensor) -> Tensor:
        seen.append(logits.shape[0])
        return logits

    few, labels = X[:3], Y[:3]
    purify(small(note), few, labels, recipe="clp", precision="fp32")
    work = PixelModel(small(note), few).copy(few)
    make_engine(work, *work.take(few, labels), QUICK, precision="fp32")
    # Not numbers, but what stands for them, while torch.fx traces.
    assert {count for count in seen if isinstance(count, int)} == {2, 3}


def test_probabilities_become_logits() -> None:
    result = erased(small(lambda logits: logits.softmax(1)))
    assert any("probabilities" in note for note in result.notes)
    for key, mask in erased(small()).masks.items():
        torch.testing.assert_close(result.masks[key], mask, atol=2e-3, rtol=0)


def test_one_logit_is_that_of_two_classes() -> None:
    model = small(lambda logits: logits[:, :1]).eval()
    before = copy.deepcopy(model.state_dict())
    result = purify(model, X, Y % 2, recipe=QUICK)
    assert any("one logit" in note for note in result.notes)
    assert model(X).shape == result.model(X).shape == (6, 1)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    expected = 100 * ((model.eval()(X)[:, 0] > 0).long() == Y % 2).double().mean().item()
    assert accuracy(model, X, Y % 2) == pytest.approx(expected)


def parametrised(change: Callable[[nn.Module], Any]) -> nn.Module:
    model = small()
    change(model.conv1)
    change(model.conv2)
    return model


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "change",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        weight_norm,
        spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
    ids=["weight_norm", "spectral_norm", "orthogonal", "old weight_norm", "old spectral", "prune"],
)
def test_weights_that_are_computed_get_masks_and_become_plain(
    change: Callable[[nn.Module], Any],
) -> None:
    model = parametrised(change).eval()
    model(X)
    result = erased(model)
    assert set(result.masks) == {"conv1", "conv2"}
    keys = result.model.state_dict().keys()
    assert keys == small().state_dict().keys()
    for name in ("conv1", "conv2"):
        ours = result.model.get_submodule(name)
        assert type(ours) is nn.Conv2d and isinstance(ours.weight, nn.Parameter)
        computed = model.get_submodule(name).weight
        torch.testing.assert_close(ours.weight, computed * result.masks[name])


def test_a_network_that_keeps_features_is_copied() -> None:
    model = small()
    kept: list[Tensor] = []
    vars(model)["kept"] = kept
    model.conv1.register_forward_hook(lambda module, args, output: kept.append(output))
    vars(model)["last"] = model(X)
    erased(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_back(dtype: torch.dtype) -> None:
    model = small().to(dtype)
    result = erased(model)
    assert {value.dtype for value in result.model.parameters()} == {dtype}
    full = erased(small().to(dtype).float())
    for key, mask in full.masks.items():
        assert torch.equal(result.masks[key], mask)
        weight = model.get_submodule(key).weight.detach()
        expected = (weight.float() * mask).to(dtype)
        assert torch.equal(result.model.get_submodule(key).weight, expected)


def test_one_layer_in_another_dtype_comes_back_so() -> None:
    model = small()
    model.head.bfloat16()
    result = erased(model, recipe=QUICK.with_options({"layers": "all"}))
    dtypes = {name: value.dtype for name, value in result.model.named_parameters()}
    assert dtypes == {name: value.dtype for name, value in model.named_parameters()}


def test_wrappers_come_back() -> None:
    plain = erased(small())
    compiled: Any = torch.compile(small(), backend="eager")
    for wrapped in (nn.DataParallel(small()), compiled):
        result = erased(wrapped)
        assert set(result.masks) == set(plain.masks)
        assert all(torch.equal(result.masks[key], mask) for key, mask in plain.masks.items())
        assert result.model.state_dict().keys() == wrapped.state_dict().keys()
        torch.testing.assert_close(result.model.eval()(X), plain.model.eval()(X))


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    file = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=file, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_distributed_data_parallel_comes_back() -> None:
    result = erased(nn.parallel.DistributedDataParallel(small()))
    torch.testing.assert_close(result.model.eval()(X), erased(small()).model.eval()(X))


class Viewing(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x.view(x.size(0), -1)[:, :3]


class Reading2(nn.Module):
    """Reads a layer's weight instead of calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.qkv = nn.Flatten(), nn.Linear(192, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.flat(x), self.qkv.weight, self.qkv.bias)


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


class Bare(nn.Module):
    """A matrix that no layer of PyTorch's holds."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.register_parameter(name, nn.Parameter(torch.randn(192, 3) / 14))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ getattr(self, self.name)


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x[:, None]).mean((2, 3, 4))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1, 2)
        return self.head(self.attention(x, x, x)[0].mean(1))


@pytest.mark.parametrize(
    ("build", "masked"),
    [
        (lambda: Viewing(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)), {"0"}),
        (Reading2, {"qkv"}),
        (lambda: nn.Sequential(Standardised(3, 3, 8), nn.Flatten()), {"0"}),
        (lambda: nn.Sequential(nn.ConvTranspose2d(3, 3, 2), nn.AvgPool2d(9), nn.Flatten()), {"0"}),
        (Deep, {"conv"}),
        (Attending, {"attention.in_proj_weight", "attention.out_proj", "head"}),
        (lambda: Bare("weight"), {"weight"}),
    ],
    ids=["view", "read", "subclass", "transposed", "3d", "attention", "bare"],
)
def test_what_transforms_features_gets_masks(
    build: Callable[[], nn.Module], masked: set[str]
) -> None:
    torch.manual_seed(0)
    model = build()
    assert set(erased(model).masks) == masked
    assert set(erased(model, recipe=QUICK.with_options({"layers": "all"})).masks) == masked
    examine(model, X, Y)
    assert math.isfinite(accuracy(model, X, Y))
    purify(model, X, Y, recipe=BASELINES["finetune"].with_options({"epochs": 1}))


def test_patterns_name_any_parameter() -> None:
    model = small()
    result = erased(model, recipe=QUICK.with_options({"layers": "*conv?.weight, bn.weight"}))
    assert set(result.masks) == {"conv1", "conv2", "bn"}
    assert result.coverage["normalisation"] == (8, 8)
    assert set(erased(Bare("table"), recipe=QUICK.with_options({"layers": "table"})).masks) == {
        "table"
    }
    with pytest.raises(ValueError, match=r"layers: .* got 'conv9', which fits none"):
        purify(model, X, Y, recipe=QUICK.with_options({"layers": "conv9"}))


def test_auto_takes_convolutions_where_these_hold_most() -> None:
    convolutional, mixed = small(), small()
    mixed.add_module("head", nn.Sequential(nn.Linear(8, 500), nn.Linear(500, 3)))
    assert set(find_weights(convolutional, "auto")) == {"conv1.weight", "conv2.weight"}
    assert set(find_weights(mixed, "auto")) == set(find_weights(mixed, "all"))


class Detached(Small):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        return super().forward(x)


def locked() -> nn.Module:
    model = small()
    vars(model)["lock"] = Lock()
    return model


def quantised() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: small().to("meta"), "model: expected weights, got none: .* on the meta device"),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)),
            "got a lazy layer .* run the",
        ),
        (lambda: torch.jit.trace(small().eval(), X), "expected a network in Python, got Torch"),
        (lambda: torch.export.export(small().eval(), (X,)), r"got an ExportedProgram; its .module"),
        (quantised, "expected floating-point weights, got a quantised Linear"),
        (lambda: small().forward, "expected a torch.nn.Module, got a method; give the network"),
        (lambda: small().state_dict(), "got a dict; load a state dict into a network first"),
        (lambda: nn.Flatten(), "model: expected"),
        (locked, "model: expected one that copy.deepcopy copies, got Small: cannot pickle"),
        (Detached, "expected logits that autograd follows back to the images"),
        (lambda: nn.Conv2d(3, 3, 3), r"expected logits \(n, classes\), got \(2, 3, 6, 6\)"),
        (lambda: nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()), r"takes images of shape \(n, 3,"),
    ],
)
def test_what_cannot_be_done_gets_a_sentence(build: Callable[[], Any], sentence: str) -> None:
    with pytest.raises((TypeError, ValueError), match=sentence) as caught:
        purify(build(), X, Y, recipe=QUICK)
    assert "\n" not in str(caught.value)
