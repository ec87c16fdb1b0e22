"""l1_rescale_: the point of the ball in the same direction."""

from __future__ import annotations

import pytest
import torch

from awm_kernels.l1_rescale import l1_rescale_
from tests.cases import rand


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_the_direction_is_kept(backend: str) -> None:
    delta = rand(3, 8, 8)
    before = delta.clone()
    assert l1_rescale_(delta, 5.0, backend=backend) is delta
    torch.testing.assert_close(delta, before * (5.0 / before.abs().sum()))


def test_inside_the_ball_nothing_changes() -> None:
    delta = rand(3, 8, 8)
    before = delta.clone()
    l1_rescale_(delta, 1e6)
    assert torch.equal(delta, before)


def test_batched_rows_have_their_own_radius() -> None:
    delta = rand(3, 2, 4, 4)
    each = torch.stack([l1_rescale_(delta[i].clone(), r) for i, r in enumerate((1.0, 2.0, 3.0))])
    l1_rescale_(delta, torch.tensor([1.0, 2.0, 3.0]).double(), batched=True)
    torch.testing.assert_close(delta, each)


def test_views() -> None:
    base = rand(4, 6)
    expected = l1_rescale_(base.t().contiguous(), 1.0)
    torch.testing.assert_close(l1_rescale_(base.t(), 1.0), expected)


def test_compiled_in_one_graph() -> None:
    compiled = torch.compile(
        lambda x: l1_rescale_(2 * x, 3.0) + 1, fullgraph=True, backend="aot_eager"
    )
    x = rand(3, 8, 8)
    torch.testing.assert_close(compiled(x), l1_rescale_(2 * x, 3.0) + 1)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="radius: expected a number ≥ 0"):
        l1_rescale_(torch.ones(3), -1.0)
    with pytest.raises(TypeError, match="delta: expected a floating-point tensor"):
        l1_rescale_(torch.ones(2).long(), 1.0)
    with pytest.raises(ValueError, match="delta: expected a tensor to write to"):
        l1_rescale_(torch.ones(1).expand(3), 1.0)
