"""The CUDA kernels, compiled for the CPU, against the reference and the C++ CPU kernels.

Their sources run as they are, a fiber for each CUDA thread (see cuda_on_cpu/cuda_runtime.h): grids,
tails, shared memory, barriers, reductions and clusters, though not a GPU's memory model.
"""

from __future__ import annotations

import ctypes
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from awm_kernels import _reference as reference
from awm_kernels import backends
from awm_kernels._registration import KERNEL_SCHEMAS
from tests.cases import present
from tests.compiled import CUDA_ON_CPU, cuda_on_cpu
from tests.conftest import SANITIZED
from tests.kernel_cases import (
    BF16,
    F32,
    F64,
    NO_CLIP,
    OPTIMISERS,
    PERTURB_DTYPES,
    STEP_DTYPES,
    WEIGHT_DTYPES,
    check_close,
    copied,
    double,
    l1_case,
    nan_like,
    scale_case,
    step_case,
)

if shutil.which("c++") is None:
    pytest.skip("needs a C++ compiler", allow_module_level=True)

# The sources are compiled for it first.
pytestmark = pytest.mark.slow

# As on a GPU, a misaligned access ends the program.
FLAGS = [
    "-fsanitize=alignment,bounds,shift,signed-integer-overflow,integer-divide-by-zero",
    "-fsanitize-undefined-trap-on-error",
]
# The namespace that the emulator's cuda_runtime.h names; the schemas are those of the real kernels.
NAMESPACE = torch.library.Library("awm_kernels_cuda_on_cpu", "FRAGMENT")
for schema in KERNEL_SCHEMAS:
    NAMESPACE.define(schema)
KERNELS = torch.ops.awm_kernels_cuda_on_cpu
LARGE = 227 << 10  # bytes of shared memory of a block on sm_90
# Around the tile (2048 elements) and the chunks of a thread, with and without a tail.
SIZES = [1, 7, 2048, 4099]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if SANITIZED is None:
        path = cuda_on_cpu(tmp_path_factory.mktemp("cuda_on_cpu") / CUDA_ON_CPU, FLAGS)
    else:
        path = Path(SANITIZED) / CUDA_ON_CPU
    torch.ops.load_library(str(path))
    loaded = ctypes.CDLL(str(path))
    loaded.cuda_on_cpu_mistake.restype = ctypes.c_char_p
    return loaded


Play = Callable[..., None]


@pytest.fixture(autouse=True)
def play(library: ctypes.CDLL) -> Iterator[Play]:
    """Sets the device that is played, its order of threads and blocks, and the first block run."""

    def device(shared: int = LARGE, arch: int = 90, order: int = 0, first: int = 0) -> None:
        library.cuda_on_cpu_device(shared, arch, order, ctypes.c_int64(first))

    torch.manual_seed(0)
    device()
    yield device
    device()


def check_order(play: Play, run: Callable[[], list[Tensor]]) -> None:
    """The same bits when repeated, and in every order of threads and blocks."""
    first = run()
    for order in (0, 1, 2):
        play(order=order)
        for a, b in zip(first, run(), strict=True):
            assert torch.equal(a, b)


def framed(tensor: Tensor | None, offset: int = 0) -> tuple[Any, Callable[[], bool]]:
    """A copy of `tensor`, `offset` elements off alignment, and whether its surroundings changed."""
    if tensor is None:
        return None, lambda: False
    margin = 64 + offset
    buffer = tensor.new_full((tensor.numel() + 2 * margin,), 7)
    inside = buffer[margin : margin + tensor.numel()]
    inside.copy_(tensor.flatten())
    outside = (buffer[:margin], buffer[margin + tensor.numel() :])
    return inside.view(tensor.shape), lambda: any((part != 7).any() for part in outside)


def same_bits(got: list[Any], expected: list[Any]) -> None:
    for a, b in zip(got, expected, strict=True):
        if isinstance(a, Tensor):
            assert torch.equal(a.nan_to_num(9), b.nan_to_num(9))


needs_cpu_kernels = pytest.mark.skipif(
    not backends()["cpu"].available, reason="the C++ CPU kernels are not built (AWM_CPU)"
)
CPU_KERNELS = torch.ops.awm_kernels_compiled


@pytest.mark.parametrize("dtypes", WEIGHT_DTYPES)
@pytest.mark.parametrize("rows", ["none", "uneven"])
@pytest.mark.parametrize("n", SIZES)
def test_masked_weight(n: int, rows: str, dtypes: tuple[torch.dtype, ...]) -> None:
    theta = torch.randn(n).to(dtypes[0])
    mask = torch.rand(n).to(dtypes[1])
    scale, row_ptr = scale_case(rows, n, dtypes[0])
    out, overrun = framed(nan_like(theta, dtypes[2]))
    KERNELS.masked_weight_out(theta, mask, scale, row_ptr, out)
    assert not overrun()
    same = reference.masked_weight(theta, mask, scale, row_ptr, dtypes[2])
    exact = reference.masked_weight(double(theta), double(mask), double(scale), row_ptr, F64)
    check_close(out, same, exact)


@pytest.mark.parametrize("shape", [(33, 5, 3, 3), (3, 5000), (5000, 1)])
def test_masked_weight_scales_rows_of_dimension_0(shape: tuple[int, ...]) -> None:
    theta, mask, scale = torch.randn(shape), torch.rand(shape), torch.randn(shape[0])
    out = nan_like(theta)
    KERNELS.masked_weight_out(theta, mask, scale, None, out)
    assert torch.equal(out, reference.masked_weight(theta, mask, scale, None, F32))


@pytest.mark.parametrize("length", [1, 3, 40])
def test_masked_weight_of_many_rows(length: int) -> None:
    """More rows than a block has threads; every third is empty."""
    lengths = torch.full((900,), length)
    lengths[::3] = 0
    row_ptr = torch.cat([torch.tensor([0]), lengths.cumsum(0)])
    theta, mask = torch.randn(int(row_ptr[-1])), torch.rand(int(row_ptr[-1]))
    scale, out = torch.randn(900), nan_like(theta)
    KERNELS.masked_weight_out(theta, mask, scale, row_ptr, out)
    assert torch.equal(out, reference.masked_weight(theta, mask, scale, row_ptr, F32))


@pytest.mark.parametrize("dtype", [F32, BF16, F64])
@pytest.mark.parametrize("offset", [1, 2, 3, 4])
def test_unaligned_views(offset: int, dtype: torch.dtype) -> None:
    theta, mask = torch.randn(3000).to(dtype), torch.rand(3000).to(dtype)
    expected = reference.masked_weight(theta, mask, None, None, dtype)
    moved = [framed(t, offset)[0] for t in (theta, mask)]
    out, overrun = framed(nan_like(theta), offset)
    KERNELS.masked_weight_out(*moved, None, None, out)
    assert torch.equal(out, expected) and not overrun()
    for shift in (0, offset):  # one array off, the others not
        KERNELS.masked_weight_out(moved[0], mask, None, None, framed(nan_like(theta), shift)[0])


def step(args: list[Any]) -> list[Any]:
    """The arguments after a step of the CUDA kernel on copies of them, framed.

    Deterministic mode fills the memory that the kernel asks for with NaN.
    """
    frames = [framed(a) if isinstance(a, Tensor) else (a, lambda: False) for a in args]
    got = [frame[0] for frame in frames]
    torch.use_deterministic_algorithms(True)
    try:
        KERNELS.mask_step_(*got)
    finally:
        torch.use_deterministic_algorithms(False)
    assert not any(changed() for _, changed in frames)
    return got


def check_step(args: list[Any]) -> None:
    same, exact = copied(args), [double(a) for a in copied(args)]
    got = step(args)
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
@pytest.mark.parametrize("n", [5, 2050])
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
    check_step(step_case(2500, optimiser=optimiser, rows=rows, grad_clip=grad_clip, l1=0.5,
                         grad_norm_clip=norm, proximal=proximal))  # fmt: skip


@needs_cpu_kernels
@pytest.mark.parametrize("dtypes", STEP_DTYPES)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_mask_step_has_the_bits_of_the_cpu(optimiser: str, dtypes: tuple[torch.dtype, ...]) -> None:
    args = step_case(4099, dtypes, optimiser, grad_clip=0.3)
    args[5] = torch.tensor(1234)
    args[1][::100] = math.nan
    got = step(args)
    CPU_KERNELS.mask_step_(*args)
    same_bits(got[:7], args[:7])
    assert got[7][1] == args[7][1]
    assert got[7][0].item() == pytest.approx(args[7][0].item(), rel=1e-12)


@pytest.mark.parametrize("norm", [NO_CLIP, 1.0])
def test_mask_step_leaves_non_finite_gradients_out(norm: float) -> None:
    args = step_case(5000, rows="none", grad_norm_clip=norm)
    bad = torch.tensor([0, 5, 2047, 2048, 4999])
    args[1][bad] = torch.tensor([math.nan, math.inf, -math.inf, math.nan, math.inf])
    got = step(args)
    for index in (0, 3, 4):
        assert torch.equal(got[index][bad], args[index][bad])
        assert got[index].isfinite().all()
    assert got[7][1] == len(bad)
    assert got[6].isfinite().all()
    assert (got[0] != args[0]).sum() > 2500


def test_mask_step_without_weight() -> None:
    args = step_case(3000)
    args[6] = None
    check_step(args)


def test_mask_step_order(play: Play) -> None:
    args = step_case(9001, grad_norm_clip=1.0)
    check_order(play, lambda: [a for a in step(args)[:8] if a is not None])


# Bytes of shared memory with which a row of 4001 floats is kept in a block, in clusters of 2 and 16
# blocks, or not at all; and a device without clusters.
MEMORIES = {
    "block": {"shared": LARGE},
    "cluster of 2": {"shared": 9_000},
    "cluster of 16": {"shared": 1_600},
    "global": {"shared": 1_000},
    "sm_80": {"shared": 9_000, "arch": 80},
}
L1_SHAPES = [(1, 1), (5, 7), (3, 513), (2, 4001)]


@pytest.mark.parametrize("name", ["l1_rescale_", "l1_project_"])
@pytest.mark.parametrize("dtype", [F32, BF16, F64])
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("shape", L1_SHAPES)
def test_l1_rows(
    shape: tuple[int, int], memory: str, dtype: torch.dtype, name: str, play: Play
) -> None:
    play(**MEMORIES[memory])
    delta, radius = l1_case(*shape, dtype)
    same, exact = delta.clone(), delta.double()
    got, overrun = framed(delta)
    getattr(KERNELS, name)(got, radius)
    assert not overrun()
    getattr(reference, name)(same, radius)
    getattr(reference, name)(exact, radius.double())
    check_close(got, same, exact)
    inside = delta.double().abs().sum(dim=1) < radius.double() * (1 - 1e-6)
    assert torch.equal(got[inside], delta[inside])


def test_l1_project_of_a_long_row() -> None:
    delta, radius = l1_case(1, 20_001, F32)
    same, exact = delta.clone(), delta.double()
    KERNELS.l1_project_(delta, radius)
    reference.l1_project_(same, radius)
    reference.l1_project_(exact, radius.double())
    check_close(delta, same, exact)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_l1_project_ends_on_non_finite_rows(bad: float, memory: str, play: Play) -> None:
    play(**MEMORIES[memory])
    delta = torch.randn(2, 4001)
    delta[0, 17] = bad
    KERNELS.l1_project_(delta, torch.tensor([1.0, 1.0]))
    assert not delta[0].isfinite().all()
    assert delta[1].abs().sum().item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("name", ["l1_rescale_", "l1_project_"])
@pytest.mark.parametrize("memory", MEMORIES)
def test_l1_rows_of_radius_zero(memory: str, name: str, play: Play) -> None:
    play(**MEMORIES[memory])
    delta = torch.randn(2, 4001)
    getattr(KERNELS, name)(delta, torch.zeros(2))
    assert (delta == 0).all()


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("dtypes", [(F32, F32), (F64, F64), (BF16, BF16), (F32, BF16), (BF16, F32)])
@pytest.mark.parametrize("project, bound", [(True, True), (False, True), (False, False)])
def test_trigger_step(
    project: bool, bound: bool, dtypes: tuple[torch.dtype, ...], memory: str, play: Play
) -> None:
    play(**MEMORIES[memory])
    for shape in [(3, 513), (2, 4004)]:
        delta, radius = l1_case(*shape, dtypes[0])
        grad = torch.randn(shape).to(dtypes[1])
        same, exact = delta.clone(), delta.double()
        got, overrun = framed(delta)
        KERNELS.trigger_step_(got, grad, radius, 0.3, project, bound)
        assert not overrun()
        reference.trigger_step_(same, grad, radius, 0.3, project, bound)
        reference.trigger_step_(exact, grad.double(), radius.double(), 0.3, project, bound)
        check_close(got, same, exact)


@pytest.mark.parametrize("memory", MEMORIES)
def test_rows_order(memory: str, play: Play) -> None:
    delta, radius = l1_case(2, 4001, F32)
    grad = torch.randn(2, 4001)

    def run() -> list[Tensor]:
        moved = delta.clone()
        KERNELS.trigger_step_(moved, grad, radius, 0.3, True, True)
        return [moved]

    settings: dict[str, int] = MEMORIES[memory]
    play(**settings)
    check_order(lambda order: play(order=order, **settings), run)


PERTURB_SHAPES = [(1, 1), (2, 255), (3, 514), (40, 64), (300, 11)]


@pytest.mark.parametrize("dtypes", PERTURB_DTYPES)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("shape", PERTURB_SHAPES)
def test_perturb(shape: tuple[int, int], shared: bool, dtypes: tuple[torch.dtype, ...]) -> None:
    x = torch.rand(shape).to(dtypes[0])
    x.view(-1)[-1] = math.nan
    delta = torch.randn(1 if shared else shape[0], shape[1]).to(dtypes[1])
    out, overrun = framed(torch.zeros_like(x, dtype=dtypes[2]))
    KERNELS.perturb_out(x, delta, 0.0, 1.0, out)
    assert not overrun()
    expected = reference.perturb(x, delta, 0.0, 1.0).to(dtypes[2])
    same_bits([out], [expected])


@pytest.mark.parametrize("dtypes", PERTURB_DTYPES)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("shape", PERTURB_SHAPES)
def test_perturb_backward(
    shape: tuple[int, int], shared: bool, dtypes: tuple[torch.dtype, ...]
) -> None:
    x = torch.rand(shape).to(dtypes[0])
    delta = torch.randn(1 if shared else shape[0], shape[1]).to(dtypes[1])
    grad = torch.randn(shape).to(dtypes[2])
    (grad_x, beyond_x), (grad_delta, beyond_delta) = framed(nan_like(x)), framed(nan_like(delta))
    KERNELS.perturb_backward_out(grad, x, delta, 0.0, 1.0, grad_x, grad_delta)
    assert not beyond_x() and not beyond_delta()
    given = delta[0] if shared else delta
    same = reference.perturb_backward(grad, x, given, 0.0, 1.0, True, True)
    same_x, same_delta = map(present, same)
    compute = reference.compute_dtype(x.dtype)
    value = x.to(compute) + delta.to(compute)
    exact = torch.where((value >= 0) & (value <= 1), grad.double(), 0)
    check_close(grad_x, same_x, exact)
    check_close(
        grad_delta, same_delta.reshape(delta.shape), exact.sum(0, True) if shared else exact
    )
    alone_x, alone_delta = nan_like(x), nan_like(delta)
    KERNELS.perturb_backward_out(grad, x, delta, 0.0, 1.0, alone_x, None)
    KERNELS.perturb_backward_out(grad, x, delta, 0.0, 1.0, None, alone_delta)
    assert torch.equal(alone_x, grad_x) and torch.equal(alone_delta, grad_delta)


def test_perturb_order(play: Play) -> None:
    x, delta, grad = torch.rand(70, 300), torch.randn(1, 300), torch.randn(70, 300)

    def run() -> list[Tensor]:
        out, grad_x, grad_delta = nan_like(x), nan_like(x), nan_like(delta)
        KERNELS.perturb_out(x, delta, 0.0, 1.0, out)
        KERNELS.perturb_backward_out(grad, x, delta, 0.0, 1.0, grad_x, grad_delta)
        return [out, grad_x, grad_delta]

    check_order(play, run)


def test_empty() -> None:
    none = torch.empty(0)
    KERNELS.masked_weight_out(none, none, None, None, none.clone())
    for norm in (NO_CLIP, 1.0):
        assert step(step_case(0, rows="none", grad_norm_clip=norm))[7].tolist() == [0, 0]
    for shape in [(0, 5), (3, 0)]:
        matrix, radius = torch.empty(shape), torch.ones(shape[0])
        KERNELS.l1_rescale_(matrix, radius)
        KERNELS.l1_project_(matrix, radius)
        KERNELS.trigger_step_(matrix, matrix.clone(), radius, 1.0, True, True)
        delta = torch.randn(1, shape[1])
        KERNELS.perturb_out(matrix, delta, 0.0, 1.0, matrix.clone())
        grad_delta = nan_like(delta)
        KERNELS.perturb_backward_out(matrix, matrix, delta, 0.0, 1.0, matrix.clone(), grad_delta)
        assert (grad_delta == 0).all()


@pytest.mark.skipif(SANITIZED is not None, reason="takes gigabytes where all memory is watched")
def test_more_elements_than_32_bits_count(play: Play) -> None:
    """Only the last block is run, so only the last of these untouched gigabytes become real."""
    n = 2**32 + 3000
    theta, mask, out = (torch.empty(n, dtype=BF16) for _ in range(3))
    row_ptr, scale = torch.tensor([0, 5, n - 7, n]), torch.tensor([1.0, 2.0, -3.0])
    tail = slice(n - 1000, n)
    theta[tail], mask[tail] = torch.randn(1000).to(BF16), torch.rand(1000).to(BF16)
    play(first=n // 4096)
    KERNELS.masked_weight_out(theta, mask, scale, row_ptr, out)
    factor = torch.tensor([2.0] * 993 + [-3.0] * 7)
    assert torch.equal(out[tail], (mask[tail].float() * theta[tail].float() * factor).to(BF16))
    side = 2**16
    matrices = [t[: side * side].view(side, side) for t in (theta, mask, out)]
    x, delta, y = matrices
    x[-1], delta[-1] = torch.rand(side).to(BF16), torch.rand(side).to(BF16)
    play(first=2**20 - 8)
    KERNELS.perturb_out(x, delta, 0.0, 1.0, y)
    assert torch.equal(y[-1, -4096:], reference.perturb(x[-1:], delta[-1:], 0, 1)[0, -4096:])


def test_guards_name_the_argument() -> None:
    theta, mask = torch.randn(10), torch.rand(10)
    with pytest.raises(RuntimeError, match="mask: expected 10 elements, got 9"):
        KERNELS.masked_weight_out(theta, mask[:9], None, None, theta.clone())
    with pytest.raises(RuntimeError, match="radius: expected"):
        KERNELS.l1_project_(torch.randn(2, 3), torch.ones(2, dtype=F64))
    with pytest.raises(RuntimeError, match="stats: expected 2 elements, got 3"):
        case = step_case(5000)
        KERNELS.mask_step_(*case[:7], torch.empty(3, dtype=F64), *case[8:])


def test_a_launch_that_fails_is_reported(play: Play) -> None:
    play(shared=100)
    with pytest.raises(RuntimeError, match="kernel launch: too much shared memory"):
        KERNELS.l1_project_(torch.randn(2, 3), torch.ones(2))


@pytest.mark.skipif(SANITIZED is not None, reason="such a mistake ends the process")
def test_mistakes_are_found(library: ctypes.CDLL, play: Play) -> None:
    said = [library.cuda_on_cpu_mistake(which).decode() for which in range(3)]
    assert said == [
        "a barrier is not reached by all threads",
        "a write beyond shared memory",
        "none",
    ]
    assert library.cuda_on_cpu_last_block() == 7
    play(order=1)
    assert library.cuda_on_cpu_last_block() != 7
