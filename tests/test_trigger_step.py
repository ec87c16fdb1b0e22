"""trigger_step_ is a step and then a ball."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from awm_kernels import l1_project_, l1_rescale_, trigger_step_
from tests.cases import rand


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_equals_its_parts(project: bool, batched: bool, backend: str) -> None:
    delta, grad = rand(3, 2, 4, 4), rand(3, 2, 4, 4, seed=1)
    expected = delta + 0.3 * grad
    (l1_project_ if project else l1_rescale_)(expected, 2.0, batched=batched)
    options: dict[str, Any] = {"lr": 0.3, "radius": 2.0, "project": project, "batched": batched}
    assert trigger_step_(delta, grad, backend=backend, **options) is delta
    torch.testing.assert_close(delta, expected)


def test_without_a_radius_only_the_step() -> None:
    delta, grad = rand(2, 3), rand(2, 3, seed=1)
    expected = delta + 10 * grad
    torch.testing.assert_close(trigger_step_(delta, grad, lr=10), expected)


def test_channels_last_gradient() -> None:
    delta, grad = rand(1, 3, 4, 4), rand(1, 3, 4, 4, seed=1)
    expected = trigger_step_(delta.clone(), grad, lr=1.0, radius=1.0)
    last = grad.to(memory_format=torch.channels_last)
    torch.testing.assert_close(trigger_step_(delta.clone(), last, lr=1.0, radius=1.0), expected)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="grad: expected delta's shape"):
        trigger_step_(torch.zeros(3), torch.zeros(4), lr=1.0)
