"""What every op owes: opcheck, gradcheck, backends that agree, strides that don't matter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from awm_kernels import (
    OPS,
    _reference,
    backends,
    choose,
    masked_conv1d,
    masked_conv2d,
    masked_conv3d,
    masked_linear,
    masked_weight,
    perturb,
    pooled_elu,
)
from awm_kernels._registration import KERNEL_SCHEMAS
from tests.cases import CASES, DIFFERENTIABLE, op, rand

ROOT = Path(__file__).resolve().parent.parent
HERE = [name for name in ("reference", "cpu") if backends()[name].available]


FAKE = ("test_schema", "test_faketensor")
# Where a backend's kernels of an op lie: a file, or for Triton a package.
KERNEL_FILES = {
    "cpu": ["csrc/cpu/{}.cpp"],
    "cuda": ["csrc/cuda/{}.cu"],
    "triton": ["awm_kernels/_triton/{}.py", "awm_kernels/_triton/{}/__init__.py"],
}


@pytest.mark.parametrize("name", OPS)
def test_every_op_is_complete(name: str) -> None:
    """One name in every place, and kernels where `OPS` says that there are some."""
    file = name.rstrip("_")
    assert hasattr(_reference, name)
    for place in ("awm_kernels/{}.py", "tests/test_{}.py", "bench/bench_{}.py"):
        assert (ROOT / place.format(file)).is_file()
    for backend, places in KERNEL_FILES.items():
        found = [place for place in places if (ROOT / place.format(file)).is_file()]
        assert len(found) == (backend in OPS[name]), (backend, found)
    torch.library.opcheck(op(name), CASES[name](torch.float32, "reference"), test_utils=FAKE)


@pytest.mark.skipif("cpu" not in HERE, reason="the C++ CPU kernels are not built (AWM_CPU)")
@pytest.mark.parametrize("schema", KERNEL_SCHEMAS)
def test_the_dispatcher_finds_the_kernels_of_the_cpu(schema: str) -> None:
    name = f"awm_kernels_compiled::{schema.partition('(')[0]}"
    assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU")


@pytest.mark.skipif("cpu" not in HERE, reason="the C++ CPU kernels are not built (AWM_CPU)")
def test_the_dispatcher_chooses_by_the_tensors_device() -> None:
    theta, mask = torch.tensor([2.0, 3.0]), torch.tensor([0.5, 1.0])
    kernel = torch.ops.awm_kernels_compiled.masked_weight_out
    kernel(theta, mask, None, None, out := torch.empty(2))
    assert out.tolist() == [1, 3]
    elsewhere = [tensor.to("meta") for tensor in (theta, mask, out)]
    with pytest.raises(NotImplementedError, match="with Meta tensors"):
        kernel(*elsewhere[:2], None, None, elsewhere[2])


def _leaves(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        a.clone().requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a
        for a in args
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("name", OPS)
def test_opcheck(name: str, backend: str) -> None:
    args = CASES[name](torch.float32, backend)
    torch.library.opcheck(op(name), _leaves(args) if name in DIFFERENTIABLE else args)


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradcheck(name: str, backend: str) -> None:
    args = _leaves(CASES[name](torch.float64, backend))
    assert torch.autograd.gradcheck(op(name), args)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_only_where_asked(name: str) -> None:
    args = CASES[name](torch.float64, "auto")
    whole = _leaves(args)
    op(name)(*whole).sum().backward()
    for position, full in enumerate(whole):
        if not (isinstance(full, Tensor) and full.is_floating_point()):
            continue
        alone = list(args)
        alone[position] = args[position].clone().requires_grad_()
        op(name)(*alone).sum().backward()
        torch.testing.assert_close(alone[position].grad, full.grad)


def _strided(value: Any) -> Any:
    """The same values behind strides that are neither contiguous nor dense."""
    if not isinstance(value, Tensor) or value.dim() == 0 or not value.is_floating_point():
        return value
    wide = value.new_full((*value.shape[:-1], value.shape[-1], 2), float("nan"))
    wide[..., 0] = value
    return wide[..., 0]


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("name", OPS)
def test_non_contiguous(name: str, backend: str) -> None:
    plain = CASES[name](torch.float32, backend)
    strided = tuple(_strided(a) for a in CASES[name](torch.float32, backend))
    expected, got = op(name)(*plain), op(name)(*strided)
    if expected is None:
        expected, got = _floats(None, plain), _floats(None, strided)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_non_contiguous_gradients(name: str) -> None:
    plain = _leaves(CASES[name](torch.float64, "auto"))
    strided = tuple(
        a.requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a
        for a in (_strided(a) for a in CASES[name](torch.float64, "auto"))
    )
    grad = torch.randn_like(op(name)(*plain))
    op(name)(*plain).backward(grad)
    op(name)(*strided).backward(_strided(grad))
    for a, b in zip(plain, strided, strict=True):
        if isinstance(a, Tensor) and a.requires_grad:
            torch.testing.assert_close(b.grad, a.grad)


def _floats(result: Any, args: tuple[Any, ...]) -> list[Tensor]:
    values = [result] if isinstance(result, Tensor) else list(args)
    return [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", OPS)
def test_error_at_most_twice_the_references(name: str, dtype: torch.dtype) -> None:
    """Against float64 on the same (rounded) inputs, next to PyTorch in the same precision."""
    if not backends()["cpu"].available:
        pytest.skip("the compiled CPU kernels are not built here")

    def run(backend: str, wide: bool) -> list[Tensor]:
        args = CASES[name](dtype, backend)
        if wide:
            args = tuple(
                a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args
            )
            args = tuple(torch.float64 if isinstance(a, torch.dtype) else a for a in args)
        return [v.double() for v in _floats(op(name)(*args), args)]

    exact, same, ours = run("reference", True), run("reference", False), run("cpu", False)
    for truth, theirs, mine in zip(exact, same, ours, strict=True):
        rounding = 8 * torch.finfo(torch.float64).eps * truth.abs().max()
        allowed = 2 * (theirs - truth).abs().max() + rounding
        assert (mine - truth).abs().max() <= allowed


@pytest.mark.parametrize("name", OPS)
def test_fake_for_cuda(name: str) -> None:
    """Shapes and dtypes for a CUDA device come out without one."""
    with torch._subclasses.FakeTensorMode():
        args = tuple(
            torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device="cuda")
            if isinstance(a, Tensor)
            else a
            for a in CASES[name](torch.float32, "auto")
        )
        result = op(name)(*args)
    if isinstance(result, Tensor):
        assert result.device.type == "cuda"
        assert result.shape == op(name)(*CASES[name](torch.float32, "auto")).shape


IN_PLACE = ("mask_step_", "l1_rescale_", "l1_project_", "trigger_step_")


@pytest.mark.parametrize("name", IN_PLACE)
def test_autograd_notices_what_an_op_changed(name: str) -> None:
    args = CASES[name](torch.float32, "auto")
    before = [arg._version if isinstance(arg, Tensor) else 0 for arg in args]
    op(name)(*args)
    after = [arg._version if isinstance(arg, Tensor) else 0 for arg in args]
    writes = [bool(a.alias_info and a.alias_info.is_write) for a in op(name)._schema.arguments]
    assert any(writes)
    assert [b > a for a, b in zip(before, after, strict=True)] == writes


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("name", IN_PLACE)
def test_autograd_does_not_record_in_place_ops(name: str, backend: str, strided: bool) -> None:
    """Masks and triggers are leaves that require a gradient."""
    plain = CASES[name](torch.float32, backend)
    op(name)(*plain)
    args = CASES[name](torch.float32, backend)
    target = _strided(args[0]) if strided else args[0]
    args = (target.requires_grad_(), *args[1:])
    op(name)(*args)
    assert target.is_leaf
    torch.testing.assert_close(target.detach(), plain[0])


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_under_inference_mode(name: str) -> None:
    plain = CASES[name](torch.float32, "auto")
    op(name)(*plain)
    with torch.inference_mode():
        args = CASES[name](torch.float32, "auto")
        op(name)(*args)
    torch.testing.assert_close(_floats(None, args), _floats(None, plain))


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "masked_conv1d": (lambda x: masked_conv1d(x, rand(4, 3, 3), rand(4, 3, 3)), (2, 3, 8)),
    "masked_conv2d": (lambda m: masked_conv2d(rand(2, 3, 8, 8), m, m), (4, 3, 3, 3)),
    "masked_conv3d": (
        lambda m: masked_conv3d(rand(2, 3, 4, 4, 4), rand(*m.shape), m),
        (4, 3, *[3] * 3),
    ),
    "masked_linear": (lambda b: masked_linear(rand(2, 3), rand(4, 3), rand(4, 3), b), (4,)),
    "masked_weight": (lambda s: masked_weight(rand(4, 3), rand(4, 3), s), (4,)),
    "perturb": (lambda d: perturb(rand(2, 3, 4), d), (3, 4)),
    "pooled_elu": (pooled_elu, (1, 2, 4, 4)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_forward_mode_is_refused(name: str) -> None:
    """A derivative that is dropped would be taken for zero."""
    function, shape = FUNCTIONS[name]
    given = rand(*shape, seed=3)
    with pytest.raises(NotImplementedError, match=f"{name} has no forward-mode derivative"):
        torch.func.jvp(function, (given,), (torch.ones_like(given),))
    with forward_ad.dual_level():
        function(given)  # without a derivative of its own
        with pytest.raises(NotImplementedError, match=f"{name} has no forward-mode derivative"):
            function(forward_ad.make_dual(given, torch.ones_like(given)))


@pytest.mark.parametrize(
    ("tensors", "options", "error", "message"),
    [
        ((3,), {}, TypeError, "tensors: expected Tensor, got int"),
        ((), {}, ValueError, "tensors: expected at least one"),
        (
            (torch.zeros(1),),
            {"op": "zork"},
            ValueError,
            "op: expected one of masked_conv, .*'zork'",
        ),
        ((torch.zeros(1),), {"op": 3}, TypeError, "op: expected str, got int"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", *HERE])
def test_wrong_arguments_of_choose(
    backend: str, tensors: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        choose(backend, *tensors, **options)


def test_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match=r"backend: expected one of auto.*'gpu'"):
        choose("gpu", torch.zeros(1))


def test_missing_backend_explains_itself() -> None:
    missing = [name for name, status in backends().items() if not status.available]
    assert "cuda" in missing or torch.cuda.is_available()
    for name in missing:
        with pytest.raises(RuntimeError, match=r"is not available.*To get it"):
            choose(name, torch.zeros(1))


def test_auto_takes_the_reference_for_dtypes_without_a_kernel() -> None:
    assert choose("auto", torch.zeros(1, dtype=torch.float16)) == "reference"
