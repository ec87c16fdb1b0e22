"""Choices by measurement, with a clock that tells what the test wants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from awm_kernels import _choice, _timing, conv_choices, masked_conv2d, masked_linear
from tests.cases import present

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_measured_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_choice, "_measured", {})
    yield


class Clock:
    """Tells the times it was given and counts how often it was asked."""

    def __init__(self, *times: float) -> None:
        self.times, self.asked = times, 0

    def __call__(self, calls: Sequence[Any], device: torch.device) -> Sequence[float]:
        for call in calls:
            call()
        self.asked += 1
        return self.times


def layer_pass(kernel: str = "forward", size: int = 4) -> _choice.LayerPass:
    return _choice.LayerPass(
        kernel, (1, 2, size, size), (2, 2, 3, 3), torch.float32, torch.float32, (True, True),
        (1, 1), (0, 0), (1, 1), 1, False, CPU,
    )  # fmt: skip


def fused() -> Tensor:
    return torch.tensor(1)


def library() -> Tensor:
    return torch.tensor(2)


def always(device: torch.device) -> bool:
    return True


def never(device: torch.device) -> bool:
    return False


@pytest.mark.parametrize(("times", "chosen"), [((1.0, 2.0), fused), ((2.0, 1.0), library)])
def test_the_faster_one_runs_and_is_told(times: tuple[float, float], chosen: Any) -> None:
    clock = Clock(*times)
    for _ in range(3):
        assert _choice.run(layer_pass(), fused, library, always, clock) == chosen()
    assert clock.asked == 1
    assert conv_choices() == [_choice.Choice(layer_pass(), chosen.__name__, *times)]


def test_every_pass_and_shape_is_measured_by_itself() -> None:
    clock = Clock(1.0, 2.0)
    for each in (layer_pass(), layer_pass("mask gradient"), layer_pass(size=8), layer_pass()):
        _choice.run(each, fused, library, always, clock)
    assert clock.asked == 3


def test_the_library_runs_where_nothing_may_be_measured() -> None:
    clock = Clock(1.0, 2.0)
    assert _choice.run(layer_pass(), fused, library, never, clock) == library()
    assert clock.asked == 0 and conv_choices() == []
    # Once measured, the choice holds there too.
    _choice.run(layer_pass(), fused, library, always, clock)
    assert _choice.run(layer_pass(), fused, library, never, clock) == fused()


def test_nothing_is_measured_on_a_cpu() -> None:
    assert not _timing.allowed(CPU)


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lets CPU tensors take the way of CUDA tensors, with stubs for the fused kernels."""
    ran: list[str] = []
    last = torch.channels_last

    def kernel(op: str, name: str, backend: str) -> Any:
        def stub(x: Tensor, theta: Tensor, *rest: Any) -> Tensor:
            ran.append(name.removeprefix(f"{op}_"))
            if name == "masked_conv_forward":
                shape = (x.shape[0], theta.shape[0], *x.shape[2:])
                return torch.full(shape, 5.0).to(memory_format=last)
            if name == "masked_linear_forward":
                return torch.full((x.shape[0], theta.shape[0]), 5.0)
            if name == "masked_conv_input_grad":
                return torch.full(tuple(rest[2]), 6.0).to(memory_format=last)
            if name == "masked_linear_input_grad":
                return torch.full((x.shape[0], theta.shape[1]), 6.0)
            return torch.full_like(rest[0], 7.0)

        return stub

    for op in ("masked_conv", "masked_linear"):
        monkeypatch.setattr(import_module(f"awm_kernels.{op}"), "kernel", kernel)
    monkeypatch.setattr(_choice, "may_fuse", lambda backend, chosen, x: backend == "auto")
    return ran


def run_layer(kind: str, need: str) -> tuple[Tensor, ...]:
    if kind == "conv":
        x, theta = torch.randn(2, 8, 5, 5), torch.randn(4, 8, 3, 3)
    else:
        x, theta = torch.randn(3, 2, 8), torch.randn(4, 8)
    leaves = {"x": x, "theta": theta, "mask": torch.rand_like(theta)}
    for name in need.split():
        leaves[name].requires_grad_()
    if kind == "conv":
        y = masked_conv2d(leaves["x"], leaves["theta"], leaves["mask"], padding=1)
    else:
        y = masked_linear(leaves["x"], leaves["theta"], leaves["mask"])
    y.sum().backward()
    return (y, *(present(leaves[name].grad) for name in need.split()))


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_auto_takes_each_pass_to_its_own_choice(
    kind: str, stubs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    faster = {"forward": "fused", "input gradient": "library", "mask gradient": "fused"}

    def run(layer_pass: _choice.LayerPass, fused: Any, library: Any) -> Tensor:
        seen.append(layer_pass.kernel)
        result: Tensor = (fused if faster[layer_pass.kernel] == "fused" else library)()
        return result

    seen: list[str] = []
    monkeypatch.setattr(_choice, "run", run)
    y, grad_x, grad_mask = run_layer(kind, "x mask")
    assert seen == ["forward", "input gradient", "mask gradient"]
    assert stubs == ["forward", "mask_grad"]
    assert (y == 5).all() and (grad_mask == 7).all() and not (grad_x == 6).all()


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_both_ways_give_tensors_of_one_shape(
    kind: str, stubs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(layer_pass: _choice.LayerPass, fused: Any, library: Any) -> Tensor:
        ours, theirs = fused(), library()
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        kernels.add(layer_pass.kernel)
        return ours

    kernels: set[str] = set()
    monkeypatch.setattr(_choice, "run", run)
    run_layer(kind, "x mask")
    assert kernels == {"forward", "input gradient", "mask gradient"}


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_a_gradient_for_the_weight_too_comes_from_the_library(kind: str, stubs: list[str]) -> None:
    run_layer(kind, "theta mask")
    assert stubs == []


def test_tile_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from awm_kernels._triton.masked_conv import tiles

    each = list(tiles.OUTPUT["half", True][:3])
    launched: list[tiles.Tile] = []
    clock = Clock(3.0, 1.0, 2.0)

    def launch(tile: tiles.Tile) -> Tensor:
        launched.append(tile)
        return torch.tensor(tile.m)

    monkeypatch.setattr(tiles, "_chosen", {})
    assert tiles.pick("key", lambda: each, launch, CPU) == each[0].m
    assert launched == [each[0]]
    monkeypatch.setattr(_timing, "allowed", always)
    monkeypatch.setattr(_timing, "device_times", clock)
    for _ in range(2):
        assert tiles.pick("key", lambda: each, launch, CPU) == each[1].m
    assert clock.asked == 1 and launched[-1] == each[1]


def test_tiles_that_a_gpu_has_no_room_for_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    from awm_kernels._triton.masked_conv import tiles

    each = list(tiles.OUTPUT["half", True][:3])

    def launch(tile: tiles.Tile) -> Tensor:
        if tile == each[0]:
            raise triton.runtime.errors.OutOfResources(1, 2, "shared memory")
        return torch.tensor(tile.m)

    monkeypatch.setattr(tiles, "_chosen", {})
    monkeypatch.setattr(_timing, "allowed", always)
    monkeypatch.setattr(_timing, "device_times", Clock(2.0, 1.0))
    tiles.pick("key", lambda: each, launch, CPU)
    assert tiles._chosen["key"] == each[2]
