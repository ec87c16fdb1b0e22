"""The Triton kernels under Triton's interpreter, on CPU tensors, against the reference.

The interpreter is chosen when a kernel is decorated, so this file runs in a process of its own:
TRITON_INTERPRET=1 pytest tests/test_triton.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from awm_kernels import _reference as reference
from tests.accuracy import assert_accurate
from tests.cases import present

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1, set before Python starts", allow_module_level=True)
# The interpreter of 3.6 does not work with NumPy 2.4.
pytest.importorskip("triton", minversion="3.7", reason="needs Triton 3.7 or newer")

from awm_kernels._triton import (
    l1_project,
    l1_rescale,
    mask_step,
    masked_conv,
    masked_weight,
    perturb,
    trigger_step,
)
from awm_kernels._triton.masked_conv import forward, input_grad, mask_grad, split, tiles

pytestmark = [
    pytest.mark.triton,
    # Projecting onto a ball of radius 0 ends Newton's method with 0 / 0, as it should.
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]

FLOAT, HALF, DOUBLE = torch.float32, torch.bfloat16, torch.float64
DTYPES = (FLOAT, HALF, DOUBLE)
RATE = torch.tensor(0.1, dtype=DOUBLE)


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan() -> Iterator[None]:
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.double()


def filled(like: Tensor) -> Tensor:
    return torch.full_like(like, float("nan"))


def rows_case(rows: str, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor | None, ...]:
    """(scale, row_ptr) of a weight of `shape`; "pointer" makes rows of unequal length."""
    compute = reference.compute_dtype(dtype)
    if rows == "none":
        return None, None
    if rows == "equal":
        return torch.randn(shape[0], dtype=compute), None
    size = torch.Size(shape).numel()
    # An empty row, rows of one element, and one longer than a block.
    cuts = [0, 0, 1, 2, 3, 30, 31, 90, min(1500, size), size]
    row_ptr = torch.tensor([cut for cut in cuts if cut <= size])
    return torch.randn(len(row_ptr) - 1, dtype=compute), row_ptr


@pytest.mark.parametrize("rows", ["none", "equal", "pointer"])
@pytest.mark.parametrize("shape", [(7, 3, 3, 3), (3, 1100), (1500, 1), (2048,)])
def test_masked_weight(shape: tuple[int, ...], rows: str) -> None:
    for dtype, out_dtype in ((FLOAT, FLOAT), (FLOAT, HALF), (HALF, HALF), (DOUBLE, DOUBLE)):
        theta, mask = torch.randn(shape, dtype=dtype), torch.rand(shape, dtype=dtype)
        scale, row_ptr = rows_case(rows, shape, dtype)
        if rows == "pointer":
            theta, mask = theta.flatten(), mask.flatten()
        out = filled(theta).to(out_dtype)
        masked_weight.masked_weight_out(theta, mask, scale, row_ptr, out)
        same = reference.masked_weight(theta, mask, scale, row_ptr, out_dtype)
        exact = reference.masked_weight(
            theta.double(), mask.double(), double(scale), row_ptr, DOUBLE
        )
        assert_accurate(out, same, exact)
        grad = filled(theta)
        masked_weight.mask_grad_out(theta, mask, scale, row_ptr, grad)
        assert_accurate(grad, reference.mask_grad(mask, theta, scale, row_ptr, dtype), exact)


def test_masked_weight_keeps_channels_last() -> None:
    theta = torch.randn(5, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    mask, scale, out = torch.rand_like(theta), torch.randn(5), filled(theta)
    masked_weight.masked_weight_out(theta, mask, scale, None, out)
    assert torch.equal(out, reference.masked_weight(theta, mask, scale, None, FLOAT))


# (mask, θ, dW, W): one dtype throughout, and the mixtures of a low-precision model.
STEP_DTYPES = [
    (FLOAT, FLOAT, FLOAT, FLOAT),
    (FLOAT, FLOAT, HALF, HALF),
    (HALF, HALF, HALF, HALF),
    (DOUBLE, DOUBLE, DOUBLE, DOUBLE),
]


Arguments = tuple[Tensor | None, ...]


def run_mask_step(
    module: ModuleType,
    tensors: Arguments,
    weight_dtype: torch.dtype,
    step: Tensor,
    row_ptr: Tensor | None,
    settings: tuple[Any, ...],
) -> list[Tensor]:
    """(mask, moments, weight, stats) after a step on copies of (mask, dW, θ, moments, scale)."""
    mask, grad, theta, first, second, scale = (None if t is None else t.clone() for t in tensors)
    assert mask is not None
    weight = filled(mask).to(weight_dtype)
    stats = torch.full((2,), float("nan"), dtype=DOUBLE)
    module.mask_step_(
        mask, grad, theta, first, second, step, weight, stats, scale, row_ptr, *settings
    )
    return [t for t in (mask, first, second, weight, stats) if t is not None]


@pytest.mark.parametrize("dtypes", STEP_DTYPES, ids=str)
@pytest.mark.parametrize("moments", [0, 1, 2])
@pytest.mark.parametrize("proximal", [False, True])
@pytest.mark.parametrize(
    "rows, count, norm", [("none", 1, 20.0), ("equal", 7, float("inf")), ("pointer", 4000, 20.0)]
)
def test_mask_step(
    dtypes: tuple[torch.dtype, ...],
    moments: int,
    proximal: bool,
    rows: str,
    count: int,
    norm: float,
) -> None:
    shape: tuple[int, ...] = (9, 4, 5, 7)
    compute = reference.compute_dtype(dtypes[0])
    scale, row_ptr = rows_case(rows, shape, dtypes[1])
    if rows == "pointer":
        shape = (1260,)
    mask = torch.rand(shape).to(dtypes[0])
    theta = torch.randn(shape).to(dtypes[1])
    grad = torch.randn(shape).to(dtypes[2])
    for index, bad in ((3, float("nan")), (500, float("inf")), (1259, -float("inf"))):
        grad.view(-1)[index] = bad
    first = torch.randn(shape, dtype=compute) if moments > 0 else None
    second = torch.rand(shape, dtype=compute) if moments > 1 else None
    tensors = (mask, grad, theta, first, second, scale)
    step, settings = torch.tensor(count), (RATE, 0.9, 0.999, 1e-8, 1.5, 0.3, norm, proximal)

    actual = run_mask_step(mask_step, tensors, dtypes[3], step, row_ptr, settings)
    same = run_mask_step(reference, tensors, dtypes[3], step, row_ptr, settings)
    wide = tuple(double(tensor) for tensor in tensors)
    exact = run_mask_step(reference, wide, DOUBLE, step, row_ptr, settings)
    for ours, theirs, true in zip(actual[:-1], same[:-1], exact[:-1], strict=True):
        assert_accurate(ours, theirs, true)
    norm, bad_count = actual[-1]
    torch.testing.assert_close(norm, actual[0].double().sum())
    assert bad_count == 3


def test_mask_step_without_weight_counts_every_block() -> None:
    mask, grad = torch.rand(5000), torch.full((5000,), float("nan"))
    before, stats = mask.clone(), torch.full((2,), float("nan"), dtype=DOUBLE)
    mask_step.mask_step_(
        mask, grad, grad, None, None, torch.tensor(1), None, stats, None, None,
        RATE, 0.9, 0.999, 1e-8, float("inf"), 0.0, float("inf"), False,
    )  # fmt: skip
    assert torch.equal(mask, before)
    assert stats[1] == 5000
    torch.testing.assert_close(stats[0], before.double().sum())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [1, 37, 4097, 9000])
def test_l1_rows(dtype: torch.dtype, length: int) -> None:
    rows = torch.randn(6, length, dtype=dtype)
    rows[4] = 0.5  # ties
    rows[5] = 0
    norms = rows.double().abs().sum(dim=1)
    # Far outside, just outside, inside, to nothing, ties, and the zero row.
    radius = norms * torch.tensor([0.1, 0.99, 1.5, 0.0, 0.5, 0.0])
    radius = radius.to(reference.compute_dtype(dtype))
    for module in (l1_rescale, l1_project):
        name = f"{module.__name__.rpartition('.')[2]}_"
        actual, same, exact = rows.clone(), rows.clone(), rows.double()
        getattr(module, name)(actual, radius)
        getattr(reference, name)(same, radius)
        getattr(reference, name)(exact, radius.double())
        assert_accurate(actual, same, exact)
        assert torch.equal(actual[2], rows[2])


def test_l1_project_few_large_among_many_small() -> None:
    rows = torch.randn(2, 3072) * 1e-3
    rows[:, :5] = torch.tensor([3.0, -2.0, 1.0, -1e4, 7.0])
    radius = torch.tensor([1.0, 1e4])
    exact, same = rows.double(), rows.clone()
    reference.l1_project_(exact, radius.double())
    reference.l1_project_(same, radius)
    l1_project.l1_project_(rows, radius)
    assert_accurate(rows, same, exact)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("project, bound", [(True, True), (False, True), (True, False)])
def test_trigger_step(dtype: torch.dtype, project: bool, bound: bool) -> None:
    delta, grad = torch.randn(3, 507, dtype=dtype), torch.randn(3, 507, dtype=dtype)
    radius = torch.tensor([50.0, 5.0, 5000.0], dtype=reference.compute_dtype(dtype))
    actual, same, exact = delta.clone(), delta.clone(), delta.double()
    trigger_step.trigger_step_(actual, grad, radius, 0.7, project, bound)
    reference.trigger_step_(same, grad, radius, 0.7, project, bound)
    reference.trigger_step_(exact, grad.double(), radius.double(), 0.7, project, bound)
    assert_accurate(actual, same, exact)


@pytest.mark.parametrize("one_image", [True, False])
@pytest.mark.parametrize("batch, length", [(1, 75), (9, 300), (70, 130)])
@pytest.mark.parametrize("dtype, delta_dtype", [(FLOAT, FLOAT), (HALF, FLOAT), (DOUBLE, DOUBLE)])
def test_perturb(
    dtype: torch.dtype, delta_dtype: torch.dtype, batch: int, length: int, one_image: bool
) -> None:
    x = torch.rand(batch, length).to(dtype)
    delta = torch.randn(1 if one_image else batch, length).to(delta_dtype)
    x[0, 0] = float("nan")
    out = filled(x)
    perturb.perturb_out(x, delta, 0.0, 1.0, out)
    given = delta[0] if one_image else delta
    assert torch.equal(out.nan_to_num(9), reference.perturb(x, given, 0.0, 1.0).nan_to_num(9))

    grad = torch.randn(batch, length).to(dtype)
    wanted_x, wanted_delta = map(
        present, reference.perturb_backward(grad, x, given, 0.0, 1.0, True, True)
    )
    wide = (grad.double(), x.double(), given.double())
    exact_x, exact_delta = map(present, reference.perturb_backward(*wide, 0.0, 1.0, True, True))
    for need_x, need_delta in ((True, True), (True, False), (False, True)):
        grad_x = filled(x) if need_x else None
        grad_delta = filled(delta) if need_delta else None
        perturb.perturb_backward_out(grad, x, delta, 0.0, 1.0, grad_x, grad_delta)
        if grad_x is not None:
            assert_accurate(grad_x, wanted_x, exact_x)
        if grad_delta is not None:
            assert_accurate(grad_delta.reshape(wanted_delta.shape), wanted_delta, exact_delta)


# (x shape, output channels, kernel, stride, padding, dilation, groups)
CONVOLUTIONS = {
    "plain": ((2, 5, 9, 7), 6, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "vectors": ((2, 24, 5, 6), 40, (3, 2), (1, 1), (1, 1), (1, 1), 1),
    "vectors, stride": ((2, 8, 9, 8), 16, (3, 3), (2, 3), (1, 0), (1, 1), 1),
    "vectors, groups": ((1, 32, 6, 5), 16, (3, 3), (1, 2), (0, 1), (2, 1), 2),
    "vectors, split": ((1, 72, 4, 4), 72, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "stride": ((2, 3, 8, 11), 4, (3, 2), (2, 3), (1, 0), (1, 1), 1),
    "dilation": ((1, 4, 10, 9), 3, (3, 3), (2, 1), (2, 3), (2, 3), 1),
    "stride 2, dilation 2": ((1, 8, 9, 12), 8, (3, 4), (2, 4), (2, 1), (2, 2), 1),
    "groups": ((2, 6, 5, 6), 9, (3, 3), (1, 2), (1, 1), (1, 1), 3),
    "depthwise": ((2, 7, 6, 5), 7, (3, 3), (1, 1), (1, 1), (1, 1), 7),
    "depthwise, stride": ((3, 40, 8, 9), 40, (3, 2), (2, 3), (1, 1), (2, 1), 40),
    "depthwise, split": ((5, 16, 20, 20), 16, (3, 3), (1, 1), (1, 1), (1, 1), 16),
    "multiplier": ((1, 3, 6, 6), 6, (5, 5), (1, 1), (2, 2), (1, 1), 3),
    "pointwise": ((1, 70, 3, 4), 69, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    "pointwise, stride": ((2, 16, 5, 4), 24, (1, 1), (2, 2), (0, 0), (1, 1), 1),
    "one row": ((3, 4, 1, 40), 5, (1, 7), (1, 2), (0, 3), (1, 1), 1),
    "many pixels": ((9, 2, 17, 16), 3, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "unread edge": ((1, 2, 8, 8), 2, (2, 2), (3, 3), (0, 0), (1, 1), 1),
}


@pytest.mark.parametrize(
    ("dtype", "layout"), [(HALF, "NCHW"), (FLOAT, "NHWC"), (HALF, "NHWC"), (FLOAT, "strided")]
)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_masked_conv(name: str, dtype: torch.dtype, layout: str) -> None:
    shape, channels, kernel, stride, padding, dilation, groups = CONVOLUTIONS[name]
    place = (stride, padding, dilation, groups)
    x = torch.randn(shape).to(dtype)
    theta = torch.randn(channels, shape[1] // groups, *kernel)
    form = torch.contiguous_format
    if layout == "NHWC":
        form = torch.channels_last
        x, theta = x.to(memory_format=form), theta.to(memory_format=form)
    mask = torch.rand(theta.shape)
    scale = torch.randn(channels) if layout != "strided" else None
    bias = torch.randn(channels) if layout != "strided" else None
    if layout == "strided":
        x = torch.stack((x, filled(x)), dim=-1)[..., 0].transpose(2, 3).contiguous()
        x = x.transpose(2, 3)

    weight = reference.masked_weight(theta, mask, scale, None, dtype)
    true_weight = reference.masked_weight(
        theta.double(), mask.double(), double(scale), None, DOUBLE
    )
    y = masked_conv.masked_conv_forward(x, theta, mask, scale, bias, *place, False, form)
    low_bias = None if bias is None else bias.to(dtype)
    same = reference.conv(x, weight, low_bias, *place)
    assert_accurate(y, same, reference.conv(x.double(), true_weight, double(bias), *place))
    assert y.is_contiguous(memory_format=form)

    grad = torch.randn_like(same)
    if layout == "strided":
        grad = grad[:1].expand(same.shape)
    dx, dw, _ = reference.conv_backward(grad, x, weight, *place, True, True, False)
    true_dx, true_dw, _ = reference.conv_backward(
        grad.double(), x.double(), true_weight, *place, True, True, False
    )
    actual = masked_conv.masked_conv_input_grad(
        grad, theta, mask, scale, x.shape, *place, False, form
    )
    assert_accurate(actual, present(dx), present(true_dx))
    assert actual.is_contiguous(memory_format=form)

    dm = masked_conv.masked_conv_mask_grad(grad, x, theta, scale, *place, False)
    same_dm = reference.mask_grad(present(dw), theta, scale, None, theta.dtype)
    assert_accurate(
        dm,
        same_dm,
        reference.mask_grad(present(true_dw), theta.double(), double(scale), None, DOUBLE),
    )
    assert dm.stride() == theta.stride()


@pytest.mark.parametrize("kind", [tiles.OUTPUT, tiles.WEIGHT], ids=["output", "weight"])
def test_every_tile_gives_the_same_result(
    kind: dict[tuple[str, bool], tuple[tiles.Tile, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each tile is somebody's only choice on some GPU, whatever fits best here."""
    x = torch.randn(2, 24, 5, 6).to(memory_format=torch.channels_last)
    theta = torch.randn(40, 24, 3, 3).to(memory_format=torch.channels_last)
    mask, grad = torch.rand_like(theta), torch.randn(2, 40, 5, 6)
    grad = grad.to(memory_format=torch.channels_last)
    place = ((1, 1), (1, 1), (1, 1), 1)
    weight = mask.double() * theta.double()
    dx, dw, _ = reference.conv_backward(
        grad.double(), x.double(), weight, *place, True, True, False
    )
    y = reference.conv(x.double(), weight, None, *place)
    for (name, _), each in kind.items():
        dtype = HALF if name == "half" else FLOAT
        a, g, tf32 = x.to(dtype), grad.to(dtype), name == "tf32"
        for tile in each:
            monkeypatch.setattr(tiles, "candidates", lambda *_, t=tile: [t])
            for module in (forward, input_grad, mask_grad):
                monkeypatch.setattr(module, "candidates", lambda *_, t=tile: [t])
            rtol, atol = (2e-2, 2e-1) if dtype == HALF else (1e-4, 1e-4)
            form = torch.channels_last
            if kind is tiles.OUTPUT:
                got = masked_conv.masked_conv_forward(
                    a, theta, mask, None, None, *place, tf32, form
                )
                torch.testing.assert_close(got.double(), y, rtol=rtol, atol=atol)
                got = masked_conv.masked_conv_input_grad(
                    g, theta, mask, None, x.shape, *place, tf32, form
                )
                torch.testing.assert_close(got.double(), dx, rtol=rtol, atol=atol)
            else:
                got = masked_conv.masked_conv_mask_grad(g, a, theta, None, *place, tf32)
                expected = present(dw) * theta
                torch.testing.assert_close(got.double(), expected, rtol=rtol, atol=atol)


def test_candidates_waste_little() -> None:
    half = tiles.OUTPUT["half", True]
    assert [tile.n for tile in tiles.candidates(half, 10_000, 16)] == [16]
    assert {tile.n for tile in tiles.candidates(half, 10_000, 24)} == {32, 16}
    assert tiles.candidates(half, 100_000, 512)[0] == half[0]
    assert len(tiles.candidates(half, 100_000, 512)) <= tiles.MOST
    small = tiles.WEIGHT["half", True]
    assert tiles.candidates(small, 16, 16) == [small[-1]]


def test_a_sum_in_shares_has_the_same_bits_every_time() -> None:
    x, theta = torch.randn(3, 5, 20, 20), torch.randn(4, 5, 3, 3)
    grad, place = torch.randn(3, 4, 20, 20), ((1, 1), (1, 1), (1, 1), 1)
    runs = [
        masked_conv.masked_conv_mask_grad(grad, x, theta, None, *place, False) for _ in range(2)
    ]
    assert torch.equal(*runs)
    assert split.steps_per_share(1, 64, torch.device("cpu")) < 64


def test_masked_conv_refuses_float64() -> None:
    x, theta = torch.ones(1, 1, 4, 4, dtype=DOUBLE), torch.ones(1, 1, 3, 3)
    place = ((1, 1), (0, 0), (1, 1), 1, False, torch.contiguous_format)
    with pytest.raises(TypeError, match=r"expected x in float32.*got torch\.float64"):
        masked_conv.masked_conv_forward(x, theta, theta, None, None, *place)


def test_empty() -> None:
    none, rows = torch.empty(0, 3), torch.empty(0, 5)
    masked_weight.masked_weight_out(none, none, torch.empty(0), None, none)
    stats = torch.full((2,), float("nan"), dtype=DOUBLE)
    mask_step.mask_step_(
        none, none, none, None, None, torch.tensor(1), None, stats, None, None,
        RATE, 0.9, 0.999, 1e-8, 1.0, 0.0, 1.0, False,
    )  # fmt: skip
    assert stats.tolist() == [0, 0]
    l1_rescale.l1_rescale_(rows, torch.empty(0))
    l1_project.l1_project_(rows, torch.empty(0))
    trigger_step.trigger_step_(rows, rows, torch.empty(0), 1.0, True, True)
    perturb.perturb_out(rows, torch.ones(1, 5), 0.0, 1.0, rows)
    grad_delta = torch.full((1, 5), float("nan"))
    perturb.perturb_backward_out(rows, rows, torch.ones(1, 5), 0.0, 1.0, rows, grad_delta)
    assert grad_delta.abs().sum() == 0

    x, theta = torch.empty(0, 2, 6, 5), torch.ones(4, 2, 3, 3)
    place, form = ((1, 1), (1, 1), (1, 1), 1, False), torch.contiguous_format
    y = masked_conv.masked_conv_forward(x, theta, theta, None, None, *place, form)
    assert y.shape == (0, 4, 6, 5)
    dx = masked_conv.masked_conv_input_grad(y, theta, theta, None, x.shape, *place, form)
    assert dx.shape == x.shape
    assert masked_conv.masked_conv_mask_grad(y, x, theta, None, *place).abs().sum() == 0
