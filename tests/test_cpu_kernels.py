"""The C++ CPU kernels against the reference.

Tolerance: at most twice the error of PyTorch at the same precision, both measured against float64.
Outputs are filled with NaN beforehand, so an element that a kernel leaves unwritten shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from awm_kernels import _reference as reference
from awm_kernels._backend import LIBRARY
from tests.cases import present
from tests.kernel_cases import (
    BF16,
    F32,
    F64,
    NO_CLIP,
    OPTIMISERS,
    PERTURB_DTYPES,
    STEP_DTYPES,
    UNIT,
    WEIGHT_DTYPES,
    check_close,
    copied,
    double,
    l1_case,
    nan_like,
    scale_case,
    step_case,
)

if not LIBRARY.exists():
    pytest.skip("the C++ CPU kernels are not built (AWM_CPU)", allow_module_level=True)
torch.ops.load_library(str(LIBRARY))
KERNELS = torch.ops.awm_kernels_compiled

# Lengths around the block (512), its vectors and the grain of threads, with and without a tail.
SIZES = [1, 7, 8, 511, 512, 513, 5003, 70001]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """The same numbers in every test; the number of threads as it was afterwards."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def on_threads(count: int, run: Callable[[], list[Tensor]]) -> list[Tensor]:
    torch.set_num_threads(count)
    return run()


def check_threads(run: Callable[[], list[Tensor]]) -> None:
    """Bit for bit the same results for every number of threads."""
    first = on_threads(1, run)
    for count in (2, 3, 8):
        for a, b in zip(first, on_threads(count, run), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtypes", WEIGHT_DTYPES)
@pytest.mark.parametrize("rows", ["none", "uneven"])
@pytest.mark.parametrize("n", SIZES)
def test_masked_weight(n: int, rows: str, dtypes: tuple[torch.dtype, ...]) -> None:
    theta = torch.randn(n).to(dtypes[0])
    mask = torch.rand(n).to(dtypes[1])
    scale, row_ptr = scale_case(rows, n, dtypes[0])
    out = nan_like(theta, dtypes[2])
    KERNELS.masked_weight_out(theta, mask, scale, row_ptr, out)
    same = reference.masked_weight(theta, mask, scale, row_ptr, dtypes[2])
    exact = reference.masked_weight(double(theta), double(mask), double(scale), row_ptr, F64)
    check_close(out, same, exact)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_masked_weight_scales_rows_of_dimension_0(memory_format: torch.memory_format) -> None:
    theta = torch.randn(33, 5, 3, 3).to(memory_format=memory_format)
    mask = torch.rand_like(theta)
    scale = torch.randn(33)
    out = nan_like(theta)
    KERNELS.masked_weight_out(theta, mask, scale, None, out)
    assert torch.equal(out, reference.masked_weight(theta, mask, scale, None, F32))


def test_masked_weight_threads() -> None:
    theta, mask = torch.randn(300_001), torch.rand(300_001)
    scale, row_ptr = scale_case("uneven", theta.numel(), F32)

    def run() -> list[Tensor]:
        out = nan_like(theta)
        KERNELS.masked_weight_out(theta, mask, scale, row_ptr, out)
        return [out]

    check_threads(run)


def check_step(args: list[Any]) -> None:
    got, same, exact = copied(args), copied(args), [double(a) for a in copied(args)]
    KERNELS.mask_step_(*got)
    reference.mask_step_(*same)
    reference.mask_step_(*exact)
    for index in (0, 3, 4, 6):  # mask, moments, weight
        if got[index] is not None:
            check_close(got[index], same[index], exact[index])
    stats = got[7]
    assert stats[0].item() == pytest.approx(got[0].double().sum().item(), rel=1e-12, abs=1e-12)
    assert stats[1] == same[7][1]
    for index in (1, 2, 5, 8, 9):  # what is only read
        if args[index] is not None:
            assert torch.equal(got[index], args[index])


@pytest.mark.parametrize("dtypes", STEP_DTYPES)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("n", SIZES)
def test_mask_step(n: int, optimiser: str, dtypes: tuple[torch.dtype, ...]) -> None:
    check_step(step_case(n, dtypes, optimiser))


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("rows", ["none", "uneven"])
@pytest.mark.parametrize("proximal", [False, True])
@pytest.mark.parametrize("grad_clip", [NO_CLIP, 0.3])
@pytest.mark.parametrize("norm", [NO_CLIP, 10.0])
def test_mask_step_options(
    norm: float, grad_clip: float, proximal: bool, rows: str, optimiser: str
) -> None:
    check_step(step_case(1500, optimiser=optimiser, rows=rows, grad_clip=grad_clip, l1=0.5,
                         grad_norm_clip=norm, proximal=proximal))  # fmt: skip


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_mask_step_without_weight(optimiser: str) -> None:
    args = step_case(1500, optimiser=optimiser)
    args[6] = None
    check_step(args)


@pytest.mark.parametrize("dtypes", STEP_DTYPES)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_mask_step_leaves_non_finite_gradients_out(
    optimiser: str, dtypes: tuple[torch.dtype, ...]
) -> None:
    args = step_case(1300, dtypes, optimiser, rows="none", grad_clip=0.3)
    bad = torch.tensor([0, 5, 511, 512, 1299])
    args[1][bad] = torch.tensor([math.nan, math.inf, -math.inf, math.nan, math.inf]).to(dtypes[1])
    before = copied(args)
    KERNELS.mask_step_(*args)
    for index in (0, 3, 4):
        if args[index] is not None:
            assert torch.equal(args[index][bad], before[index][bad])
            assert args[index].isfinite().all()
    assert args[7][1] == len(bad)
    assert args[6].isfinite().all()
    assert (args[0] != before[0]).sum() > 100  # others moved; bfloat16 rounds many back


def test_mask_step_threads() -> None:
    given = step_case(300_001, grad_norm_clip=10.0)

    def run() -> list[Tensor]:
        args = copied(given)
        KERNELS.mask_step_(*args)
        return [args[i] for i in (0, 3, 4, 6, 7)]

    check_threads(run)


@pytest.mark.parametrize("name", ["l1_rescale_", "l1_project_"])
@pytest.mark.parametrize("dtype", [F32, BF16, F64])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (64, 8), (3, 513), (4, 3072), (2, 70001)])
def test_l1_rows(shape: tuple[int, int], dtype: torch.dtype, name: str) -> None:
    delta, radius = l1_case(*shape, dtype)
    got, same, exact = delta.clone(), delta.clone(), delta.double()
    getattr(KERNELS, name)(got, radius)
    getattr(reference, name)(same, radius)
    getattr(reference, name)(exact, radius.double())
    check_close(got, same, exact)
    norm = delta.double().abs().sum(dim=1)
    inside = norm < radius.double() * (1 - 1e-6)
    assert torch.equal(got[inside], delta[inside])
    limit = torch.minimum(norm, radius.double())
    assert (got.double().abs().sum(dim=1) <= limit * (1 + 2 * UNIT[dtype]) + 1e-12).all()


@pytest.mark.parametrize("dtype", [F32, BF16, F64])
@pytest.mark.parametrize("name", ["l1_rescale_", "l1_project_"])
def test_l1_rows_of_radius_zero(name: str, dtype: torch.dtype) -> None:
    delta = torch.randn(3, 100).to(dtype)
    getattr(KERNELS, name)(delta, torch.zeros(3, dtype=reference.compute_dtype(dtype)))
    assert (delta == 0).all()


@pytest.mark.parametrize("share", [1e-4, 0.01, 0.2, 0.9])
@pytest.mark.parametrize("order", ["mixed", "rising", "falling", "ends in zeros"])
def test_l1_project_of_long_rows(share: float, order: str) -> None:
    """From a handful of elements above the threshold to nearly all of them, wherever they lie."""
    row = torch.randn(40_001, dtype=F64)
    if order in ("rising", "falling"):
        row = row[row.abs().argsort(descending=order == "falling")]
    if order == "ends in zeros":
        row[30_000:] = 0
    rows = torch.stack([row, -2 * row])
    radius = share * rows.abs().sum(1)
    expected = rows.clone()
    reference.l1_project_(expected, radius)
    KERNELS.l1_project_(rows, radius)
    torch.testing.assert_close(rows, expected, rtol=1e-9, atol=1e-12)


def test_l1_project_of_equal_elements() -> None:
    delta = torch.full((2, 1000), -3.0)
    KERNELS.l1_project_(delta, torch.tensor([10.0, 4000.0]))
    torch.testing.assert_close(delta[0], torch.full((1000,), -0.01))
    assert (delta[1] == -3).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_l1_project_ends_on_non_finite_rows(bad: float) -> None:
    delta = torch.randn(2, 1000)
    delta[0, 17] = bad
    KERNELS.l1_project_(delta, torch.tensor([1.0, 1.0]))
    assert not delta[0].isfinite().all()
    assert delta[1].abs().sum().item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("name", ["l1_rescale_", "l1_project_"])
def test_l1_rows_threads(name: str) -> None:
    given, radius = l1_case(50, 4001, F32)

    def run() -> list[Tensor]:
        delta = given.clone()
        getattr(KERNELS, name)(delta, radius)
        return [delta]

    check_threads(run)


PERTURB_SHAPES = [(1, 1), (3, 7), (2, 255), (5, 256), (5, 257), (3, 513), (40, 3072), (900, 11)]


@pytest.mark.parametrize("dtypes", PERTURB_DTYPES)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("shape", PERTURB_SHAPES)
def test_perturb(shape: tuple[int, int], shared: bool, dtypes: tuple[torch.dtype, ...]) -> None:
    x = torch.rand(shape).to(dtypes[0])
    delta = torch.randn(1 if shared else shape[0], shape[1]).to(dtypes[1])
    out = nan_like(x, dtypes[2])
    KERNELS.perturb_out(x, delta, 0.0, 1.0, out)
    exact = reference.perturb(x.double(), delta.double(), 0.0, 1.0)
    same = reference.perturb(x, delta, 0.0, 1.0).to(dtypes[2])
    check_close(out, same, exact)


@pytest.mark.parametrize("dtypes", PERTURB_DTYPES)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("shape", PERTURB_SHAPES)
def test_perturb_backward(
    shape: tuple[int, int], shared: bool, dtypes: tuple[torch.dtype, ...]
) -> None:
    x = torch.rand(shape).to(dtypes[0])
    delta = torch.randn(1 if shared else shape[0], shape[1]).to(dtypes[1])
    grad = torch.randn(shape).to(dtypes[2])
    grad_x, grad_delta = nan_like(x), nan_like(delta)
    KERNELS.perturb_backward_out(grad, x, delta, 0.0, 1.0, grad_x, grad_delta)
    for_reference = delta[0] if shared else delta
    same = reference.perturb_backward(grad, x, for_reference, 0.0, 1.0, True, True)
    same_x, same_delta = map(present, same)
    # Which elements pass is decided at the compute precision; their sum is what rounding touches.
    compute = reference.compute_dtype(x.dtype)
    value = x.to(compute) + delta.to(compute)
    exact = torch.where((value >= 0) & (value <= 1), grad.double(), 0)
    check_close(grad_x, same_x, exact)
    check_close(
        grad_delta, same_delta.reshape(delta.shape), exact.sum(0, True) if shared else exact
    )


def test_perturb_backward_of_one_input() -> None:
    x, delta, grad = torch.rand(3, 700), torch.randn(1, 700), torch.randn(3, 700)
    both = [nan_like(x), nan_like(delta)]
    KERNELS.perturb_backward_out(grad, x, delta, 0.0, 1.0, *both)
    one, other = nan_like(x), nan_like(delta)
    KERNELS.perturb_backward_out(grad, x, delta, 0.0, 1.0, one, None)
    KERNELS.perturb_backward_out(grad, x, delta, 0.0, 1.0, None, other)
    assert torch.equal(one, both[0])
    assert torch.equal(other, both[1])


def test_perturb_keeps_nan_and_takes_infinite_limits() -> None:
    x = torch.tensor([[math.nan, 2.0, -5.0]])
    out = nan_like(x)
    KERNELS.perturb_out(x, torch.ones(1, 3), 0.0, 1.0, out)
    assert torch.equal(out.isnan(), x.isnan())
    KERNELS.perturb_out(x, torch.ones(1, 3), -math.inf, math.inf, out)
    assert out[0, 1:].tolist() == [3.0, -4.0]


def test_perturb_threads() -> None:
    x, delta, grad = torch.rand(80, 3001), torch.randn(1, 3001), torch.randn(80, 3001)

    def run() -> list[Tensor]:
        out, grad_x, grad_delta = nan_like(x), nan_like(x), nan_like(delta)
        KERNELS.perturb_out(x, delta, 0.0, 1.0, out)
        KERNELS.perturb_backward_out(grad, x, delta, 0.0, 1.0, grad_x, grad_delta)
        return [out, grad_x, grad_delta]

    check_threads(run)


@pytest.mark.parametrize("dtypes", [(F32, F32), (F64, F64), (BF16, BF16), (F32, BF16), (BF16, F32)])
@pytest.mark.parametrize("project, bound", [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (3, 513), (2, 3072)])
def test_trigger_step(
    shape: tuple[int, int], project: bool, bound: bool, dtypes: tuple[torch.dtype, ...]
) -> None:
    delta, radius = l1_case(*shape, dtypes[0])
    grad = torch.randn(shape).to(dtypes[1])
    got, same, exact = delta.clone(), delta.clone(), delta.double()
    KERNELS.trigger_step_(got, grad, radius, 0.3, project, bound)
    reference.trigger_step_(same, grad, radius, 0.3, project, bound)
    reference.trigger_step_(exact, grad.double(), radius.double(), 0.3, project, bound)
    check_close(got, same, exact)


def test_empty() -> None:
    none = torch.empty(0)
    KERNELS.masked_weight_out(none, none, None, None, none.clone())
    args = step_case(0, rows="none")
    KERNELS.mask_step_(*args)
    assert args[7].tolist() == [0, 0]
    for shape in [(0, 5), (3, 0)]:
        matrix = torch.empty(shape)
        radius = torch.ones(shape[0])
        KERNELS.l1_rescale_(matrix, radius)
        KERNELS.l1_project_(matrix, radius)
        KERNELS.trigger_step_(matrix, matrix.clone(), radius, 1.0, True, True)
        delta = torch.randn(1, shape[1])
        KERNELS.perturb_out(matrix, delta, 0.0, 1.0, matrix.clone())
        grad_delta = nan_like(delta)
        KERNELS.perturb_backward_out(matrix, matrix, delta, 0.0, 1.0, matrix.clone(), grad_delta)
        assert (grad_delta == 0).all()


def test_guards_name_the_argument() -> None:
    theta, mask = torch.randn(10), torch.rand(10)
    with pytest.raises(RuntimeError, match="mask: expected 10 elements, got 9"):
        KERNELS.masked_weight_out(theta, mask[:9], None, None, theta.clone())
    with pytest.raises(RuntimeError, match="theta: expected float32, bfloat16 or float64, got"):
        KERNELS.masked_weight_out(theta.int(), mask, None, None, theta.clone())
    with pytest.raises(RuntimeError, match="row_ptr: expected offsets from 0 to 10"):
        KERNELS.masked_weight_out(
            theta, mask, torch.ones(2), torch.tensor([0, 4, 12]), theta.clone()
        )
    with pytest.raises(RuntimeError, match="radius: expected"):
        KERNELS.l1_project_(torch.randn(2, 3), torch.ones(2, dtype=F64))
    with pytest.raises(RuntimeError, match="delta: expected a contiguous"):
        KERNELS.l1_project_(torch.randn(3, 2).t(), torch.ones(2))
    args = step_case(10)
    args[5] = torch.tensor(0)
    with pytest.raises(RuntimeError, match="step: expected 1 or more, got 0"):
        KERNELS.mask_step_(*args)


# Every float32 whose rounding to bfloat16 is a tie or next to one, for one exponent, and specials.
def test_bfloat16_rounds_to_nearest_even() -> None:
    bits = torch.arange(0x3F80_0000, 0x3F90_0000, dtype=torch.int32)
    special = torch.tensor(
        [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, 3.4e38, -3.4e38, 3.39e38]
    )
    x = torch.cat([bits.view(F32), -bits.view(F32), special]).reshape(1, -1)
    out = torch.empty_like(x, dtype=BF16)
    KERNELS.perturb_out(x, torch.zeros_like(x), -math.inf, math.inf, out)
    assert torch.equal(out.isnan(), x.isnan())
    known = ~x.isnan()
    assert torch.equal(out[known], x.to(BF16)[known])
