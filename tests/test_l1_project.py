"""l1_project_: the nearest point of the ball."""

from __future__ import annotations

import pytest
import torch

from awm_kernels.l1_project import l1_project_
from tests.cases import rand


def test_inside_the_ball_nothing_changes() -> None:
    delta = rand(3, 8, 8)
    before = delta.clone()
    assert l1_project_(delta, 1e6) is delta
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


def test_empty() -> None:
    assert l1_project_(torch.empty(0), 1.0).shape == (0,)


def test_compiled_in_one_graph() -> None:
    compiled = torch.compile(
        lambda x: l1_project_(2 * x, 3.0) + 1, fullgraph=True, backend="aot_eager"
    )
    x = rand(3, 8, 8)
    torch.testing.assert_close(compiled(x), l1_project_(2 * x, 3.0) + 1)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"radius: expected shape \(2,\), got \(3,\)"):
        l1_project_(torch.ones(2, 2), torch.ones(3), batched=True)
    with pytest.raises(TypeError, match="delta: expected a floating-point tensor"):
        l1_project_(torch.ones(2).long(), 1.0)
