"""Where memory runs out, images go through the network in portions."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from awm_defense import examine, get_settings, purify
from awm_defense.portions import Portions
from tests.defense.conftest import tiny_network

SHORT = {"epochs": "1", "inner_epochs": "1"}
CPU = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."


def hungry(most: int, error: Exception | None = None) -> nn.Sequential:
    """A network that takes so many images at a time."""

    def count(layer: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if len(given[0]) > most:
            raise error or RuntimeError(CPU)

    network = tiny_network().eval()
    network[0].register_forward_pre_hook(count)
    return network


def given(n: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(n)


def test_portions_change_no_gradient():
    network, images = tiny_network().double().eval(), given()[0].double().requires_grad_()
    wanted = [images, *network.parameters()]
    whole = torch.autograd.grad(network(images).logsumexp(1).sum(), wanted)
    portions = Portions()
    portions.most = 3
    seen: list[int] = []
    network.register_forward_pre_hook(lambda _, batch: seen.append(len(batch[0])))
    logits = portions(network, images)
    assert seen == [3, 3, 3, 1]
    for found, expected in zip(
        torch.autograd.grad(logits.logsumexp(1).sum(), wanted), whole, strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("error", [None, torch.OutOfMemoryError("CUDA"), MemoryError()])
def test_purify_goes_on_in_portions(error):
    recipe = get_settings("paper").with_options(SHORT)
    result = purify(hungry(9, error), *given(), recipe=recipe, precision="fp32")
    usual = purify(tiny_network(), *given(), recipe=recipe, precision="fp32")
    assert not any("memory ran out" in note for note in usual.notes)
    (note,) = set(result.notes) - set(usual.notes)
    assert re.match("memory ran out: the network was given [58] images at a time instead of", note)
    assert result.history[0] == pytest.approx(usual.history[0], rel=1e-3)
    for name, mask in result.masks.items():
        torch.testing.assert_close(mask, usual.masks[name], atol=1e-3, rtol=0)


def test_an_examination_goes_on_in_portions():
    usual = examine(tiny_network(), *given())
    found = examine(hungry(60), *given())
    torch.testing.assert_close(found.margins, usual.margins, rtol=0.05, atol=0.05)


def test_where_nothing_can_be_halved_it_says_what_to_do():
    recipe = get_settings("official").with_options(SHORT)
    with pytest.raises(RuntimeError, match="memory: not enough for one image at a time; end"):
        purify(hungry(0), *given(), recipe=recipe)


def test_other_errors_pass():
    recipe = get_settings("official").with_options(SHORT)
    with pytest.raises(RuntimeError, match="of another kind"):
        purify(hungry(9, RuntimeError("of another kind")), *given(), recipe=recipe)
