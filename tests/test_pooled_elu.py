"""pooled_elu: ELU and max-pooling in either order, odd sizes, layouts, who gets the gradient."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from awm_kernels import _reference as reference
from awm_kernels import backends, pooled_elu
from tests.cases import present, rand
from tests.kernel_cases import BF16, F32, F64, check_close, nan_like

LAYOUTS = [torch.contiguous_format, torch.channels_last]
needs_cpu = pytest.mark.skipif(
    not backends()["cpu"].available, reason="the compiled CPU kernels are not built here"
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("window", [1, 2])
def test_equals_plain_pytorch(window: int, alpha: float, layout: torch.memory_format) -> None:
    x = (3 * rand(3, 5, 6, 8)).to(memory_format=layout).requires_grad_()
    y = pooled_elu(x, window, alpha=alpha)
    expected = F.max_pool2d(F.elu(x, alpha), window)
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(y)
    torch.testing.assert_close(
        torch.autograd.grad(y, x, grad), torch.autograd.grad(expected, x, grad)
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 3), (5, 4), (2, 7)])
def test_what_is_left_over_has_no_part(size: tuple[int, int]) -> None:
    x = rand(2, 3, *size).requires_grad_()
    y = pooled_elu(x)
    assert y.shape == (2, 3, size[0] // 2, size[1] // 2)
    y.sum().backward()
    unused = torch.ones(size, dtype=torch.bool)
    unused[: size[0] // 2 * 2, : size[1] // 2 * 2] = False
    assert (present(x.grad)[..., unused] == 0).all()
    if y.numel():
        torch.testing.assert_close(y, F.elu(F.max_pool2d(x, 2)))


def test_the_first_of_equals_gets_the_gradient() -> None:
    x = torch.tensor([[1.0, 3.0, 2.0, 2.0], [3.0, 0.0, 2.0, 2.0]]).reshape(1, 1, 2, 4)
    x.requires_grad_()
    pooled_elu(x).sum().backward()
    assert present(x.grad).flatten().tolist() == [0, 1, 1, 0, 0, 0, 0, 0]


def test_an_empty_batch() -> None:
    x = torch.zeros(0, 3, 4, 4, requires_grad=True)
    pooled_elu(x).sum().backward()
    assert present(x.grad).shape == x.shape


def test_bad_arguments_are_named() -> None:
    x = torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match=r"x: expected 4 dimensions .*got shape \(2, 3\)"):
        pooled_elu(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="window: expected 1 or 2, got 3"):
        pooled_elu(x, 3)
    with pytest.raises(ValueError, match="alpha: expected a number ≥ 0, got -1"):
        pooled_elu(x, alpha=-1)
    with pytest.raises(TypeError, match=r"x: expected a floating-point tensor, got torch.int64"):
        pooled_elu(x.long())
    for backend in ("cuda", "triton"):
        with pytest.raises(ValueError, match=f"backend: expected auto, ref.*{backend}"):
            pooled_elu(x, backend=backend)


# The kernels themselves: (n, h, w, c) in memory, outputs full of NaN before.


def run(x: Tensor, grad: Tensor, window: int, alpha: float) -> tuple[Tensor, Tensor]:
    """The result and x's gradient, (n, c, h, w), of pixels-first tensors."""
    n, h, w, c = x.shape
    out = nan_like(x.new_empty(n, h // window, w // window, c))
    grad_x = nan_like(x)
    torch.ops.awm_kernels_compiled.pooled_elu_out(x, window, alpha, out)
    torch.ops.awm_kernels_compiled.pooled_elu_backward_out(grad, x, window, alpha, grad_x)
    return out.permute(0, 3, 1, 2), grad_x.permute(0, 3, 1, 2)


@needs_cpu
@pytest.mark.parametrize("dtype", [F32, BF16, F64])
@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize(
    "shape", [(1, 2, 2, 1), (2, 4, 6, 3), (3, 5, 7, 17), (2, 9, 4, 64), (1, 3, 2, 700)]
)
def test_errors(shape: tuple[int, ...], window: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = (torch.randn(shape) * 4).to(dtype)
    n, h, w, c = shape
    grad = torch.randn(n, h // window, w // window, c).to(dtype)
    got, got_grad = run(x, grad, window, 0.9)
    x, grad = x.permute(0, 3, 1, 2), grad.permute(0, 3, 1, 2)
    check_close(
        got, F.elu(F.max_pool2d(x, window), 0.9), reference.pooled_elu(x.double(), window, 0.9)
    )
    exact = reference.pooled_elu_backward(grad.double(), x.double(), window, 0.9)
    same = reference.pooled_elu_backward(grad, x, window, 0.9)
    check_close(got_grad, same, exact)


@needs_cpu
@pytest.mark.parametrize("dtype", [F32, F64])
def test_every_scale_of_negative_numbers(dtype: torch.dtype) -> None:
    """expm1 to 1.5 units in the last place, from where it is x to where it is −1."""
    x = -torch.logspace(-40, 3, 40_000, dtype=F64).to(dtype)
    x = torch.cat([x, torch.tensor([0.0, -0.0, -math.inf], dtype=dtype)]).reshape(1, 1, -1, 1)
    got, slope = run(x, torch.ones_like(x), 1, 1.0)
    exact, exact_slope = torch.expm1(x.double()), torch.exp(x.double())
    unit = torch.finfo(dtype).eps
    error = (got.flatten() - exact.flatten()).abs() / exact.flatten().abs().clamp(min=1e-44)
    assert error[exact.flatten().abs() > torch.finfo(dtype).tiny].max() <= 1.5 * unit
    assert (slope.flatten() - exact_slope.flatten()).abs().max() <= unit


@needs_cpu
@pytest.mark.parametrize("window", [1, 2])
def test_non_finite(window: int) -> None:
    x = torch.full((1, 2, 2, 1), -1.0)
    x[0, 1, 0] = math.nan
    got, _ = run(x, torch.ones(1, 2 // window, 2 // window, 1), window, 1.0)
    assert got.isnan().sum() == 1
    x[0, 1, 0] = math.inf
    got, _ = run(x, torch.ones(1, 2 // window, 2 // window, 1), window, 1.0)
    assert got.isposinf().sum() == 1


@needs_cpu
@pytest.mark.parametrize("window", [1, 2])
def test_threads(window: int) -> None:
    x, grad = torch.randn(9, 30, 31, 40), torch.randn(9, 30 // window, 31 // window, 40)
    before = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(run(x, grad, window, 1.0))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))


@needs_cpu
def test_guards_name_the_argument() -> None:
    x, out = torch.zeros(1, 4, 4, 2), torch.zeros(1, 2, 2, 2)
    ops = torch.ops.awm_kernels_compiled
    with pytest.raises(RuntimeError, match="window: expected 1 or 2, got 3"):
        ops.pooled_elu_out(x, 3, 1.0, out)
    with pytest.raises(RuntimeError, match="out: expected x's shape"):
        ops.pooled_elu_out(x, 2, 1.0, x.clone())
    with pytest.raises(RuntimeError, match=r"x: expected contiguous images \(n, h, w, c\)"):
        ops.pooled_elu_out(x.permute(0, 3, 1, 2), 2, 1.0, out)
    with pytest.raises(RuntimeError, match="grad_x: expected"):
        ops.pooled_elu_backward_out(out, x, 2, 1.0, out.clone())
