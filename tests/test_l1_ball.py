"""l1_rescale_ and l1_project_: inside the ball, and the right point of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import rand

from awm_kernels import l1_project_, l1_rescale_


def test_rescale_keeps_the_direction() -> None:
    delta = rand(3, 8, 8)
    before = delta.clone()
    assert l1_rescale_(delta, 5.0) is delta
    torch.testing.assert_close(delta, before * (5.0 / before.abs().sum()))


@pytest.mark.parametrize("function", [l1_rescale_, l1_project_])
def test_inside_the_ball_nothing_changes(function: object) -> None:
    delta = rand(3, 8, 8)
    before = delta.clone()
    function(delta, 1e6)  # type: ignore[operator]
    assert torch.equal(delta, before)


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("radius", [0.0, 0.1, 3.0, 20.0])
def test_projection_satisfies_the_optimality_conditions(radius: float, backend: str) -> None:
    """p = soft(v, t) with ‖p‖₁ = radius: necessary and sufficient for the nearest point."""
    v = rand(64)
    p = l1_project_(v.clone(), radius, backend=backend)
    torch.testing.assert_close(p.abs().sum().item(), radius)
    moved = v.abs() - p.abs()
    kept = p != 0
    if kept.any():
        threshold = moved[kept].mean()
        torch.testing.assert_close(moved[kept], threshold.expand(int(kept.sum())))
        assert (v.abs()[~kept] <= threshold + 1e-12).all()
    assert (p * v >= 0).all()


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_ties_and_zero_rows(backend: str) -> None:
    delta = torch.tensor([[1.0, -1.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    l1_project_(delta, 2.0, batched=True, backend=backend)
    torch.testing.assert_close(delta[0], torch.tensor([0.5, -0.5, 0.5, -0.5]))
    assert torch.equal(delta[1], torch.zeros(4))


def test_batched_rows_have_their_own_radius() -> None:
    delta = rand(3, 2, 4, 4)
    each = torch.stack([l1_project_(delta[i].clone(), r) for i, r in enumerate((1.0, 2.0, 3.0))])
    l1_project_(delta, torch.tensor([1.0, 2.0, 3.0]).double(), batched=True)
    torch.testing.assert_close(delta, each)


def test_views_and_empty_tensors() -> None:
    base = rand(4, 6)
    expected = l1_rescale_(base.t().contiguous(), 1.0)
    torch.testing.assert_close(l1_rescale_(base.t(), 1.0), expected)
    assert l1_project_(torch.empty(0), 1.0).shape == (0,)


@pytest.mark.parametrize("function", [l1_rescale_, l1_project_])
def test_compiled_in_one_graph(function: Callable[..., torch.Tensor]) -> None:
    compiled = torch.compile(
        lambda x: function(2 * x, 3.0) + 1, fullgraph=True, backend="aot_eager"
    )
    x = rand(3, 8, 8)
    torch.testing.assert_close(compiled(x), function(2 * x, 3.0) + 1)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="radius: expected a number ≥ 0"):
        l1_rescale_(torch.ones(3), -1.0)
    with pytest.raises(ValueError, match=r"radius: expected shape \(2,\), got \(3,\)"):
        l1_project_(torch.ones(2, 2), torch.ones(3), batched=True)
    with pytest.raises(TypeError, match="delta: expected a floating-point tensor"):
        l1_project_(torch.ones(2).long(), 1.0)
