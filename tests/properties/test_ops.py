"""Every op on any arguments: as the reference, or a refusal that names the argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import awm_kernels
from awm_kernels import OPS, backends
from tests.properties.values import (
    FLOATS,
    Made,
    anything,
    kinds,
    made,
    refusal,
    sizes,
    tensors,
)

shapes = st.lists(sizes, max_size=4).map(tuple)
finite = st.sampled_from(["usual", "zero", "tiny", "positive"])
rates = st.one_of(st.floats(0, 2), st.sampled_from([0, 1e-3, float("inf")]))
Arguments = dict[str, Any]


def _optional(draw: st.DrawFn, strategy: st.SearchStrategy[Any]) -> Any:
    return draw(st.one_of(st.none(), strategy))


def _rows(draw: st.DrawFn) -> tuple[tuple[int, ...], Any, Any]:
    """A shape, with a scale and a row_ptr for it."""
    if draw(st.booleans()):
        ends = draw(st.lists(sizes, max_size=4))
        offsets = torch.tensor([0, *ends]).cumsum(0)
        return (sum(ends),), _optional(draw, tensors((len(ends),))), offsets
    shape = draw(shapes)
    return shape, _optional(draw, tensors((shape[0],))) if shape else None, None


def _masked_weight(draw: st.DrawFn) -> Arguments:
    shape, scale, row_ptr = _rows(draw)
    dtype = _optional(draw, st.sampled_from(FLOATS))
    out = _optional(draw, tensors(shape, st.just(dtype) if dtype else None))
    return {
        "theta": draw(tensors(shape)),
        "mask": draw(tensors(shape)),
        "scale": scale,
        "row_ptr": row_ptr,
        "dtype": dtype,
        "out": out,
    }


def _mask_step_(draw: st.DrawFn) -> Arguments:
    shape, scale, row_ptr = _rows(draw)
    mask = draw(tensors(shape))
    wide = torch.float64 if mask.dtype == torch.float64 else torch.float32
    # Kernels compute in the mask's precision, the reference in θ's.
    dtypes = st.just(wide) if wide == torch.float64 else st.sampled_from(FLOATS[:2])
    moments = draw(st.integers(0, 2))
    return {
        "mask": mask,
        "grad_weight": draw(tensors(shape, dtypes)),
        "theta": draw(tensors(shape, dtypes)),
        "step": torch.tensor(draw(st.integers(0, 100))),
        "lr": draw(rates),
        "exp_avg": draw(tensors(shape, st.just(wide))) if moments else None,
        "exp_avg_sq": draw(tensors(shape, st.just(wide))) if moments == 2 else None,
        "betas": draw(st.tuples(st.floats(0, 0.999), st.floats(0, 0.999))),
        "eps": draw(st.sampled_from([1e-8, 1e-3, 1])),
        "grad_clip": draw(rates),
        "grad_norm_clip": draw(rates),
        "l1": draw(rates),
        "proximal": draw(st.booleans()),
        "scale": scale,
        "row_ptr": row_ptr,
        "weight_out": _optional(draw, tensors(shape)),
    }


def _l1(draw: st.DrawFn) -> Arguments:
    shape = draw(shapes)
    batched = draw(st.booleans()) and bool(shape)
    radius: Any = draw(rates)
    if batched and draw(st.booleans()):
        radius = draw(tensors((shape[0],), values=st.just("positive")))
    # What is not finite has no nearest point.
    return {"delta": draw(tensors(shape, values=finite)), "radius": radius, "batched": batched}


def _trigger_step_(draw: st.DrawFn) -> Arguments:
    arguments = _l1(draw)
    shape = arguments["delta"].shape
    return arguments | {
        "grad": draw(tensors(shape, values=st.sampled_from(["usual", "zero", "tiny"]))),
        "lr": draw(st.floats(-2, 2)),
        "radius": _optional(draw, st.just(arguments["radius"])),
        "project": draw(st.booleans()),
    }


def _perturb(draw: st.DrawFn) -> Arguments:
    shape = draw(st.lists(sizes, min_size=2, max_size=5).map(tuple))
    low, high = sorted(draw(st.tuples(st.floats(-2, 2), st.floats(-2, 2))))
    return {
        "x": draw(tensors(shape)),
        "delta": draw(tensors(draw(st.sampled_from([shape, shape[1:]])))),
        "low": low,
        "high": high,
    }


def _pooled_elu(draw: st.DrawFn) -> Arguments:
    return {
        "x": draw(tensors(draw(st.tuples(sizes, sizes, sizes, sizes)))),
        "window": draw(st.sampled_from([1, 2])),
        "alpha": draw(rates),
    }


def _masked_linear(draw: st.DrawFn) -> Arguments:
    outputs, inputs = draw(sizes), draw(sizes)
    x = draw(tensors((*draw(st.lists(sizes, max_size=2)), inputs)))
    return _layer(draw, x, (outputs, inputs), kinds)


def _layer(
    draw: st.DrawFn, x: Made, shape: tuple[int, ...], values: st.SearchStrategy[str]
) -> Arguments:
    return {
        "x": x,
        "theta": draw(tensors(shape, values=values)),
        "mask": draw(tensors(shape, values=values)),
        "scale": _optional(draw, tensors(shape[:1], values=values)),
        "bias": _optional(draw, tensors(shape[:1], st.just(x.dtype))),
    }


def _masked_conv(dims: int) -> Callable[[st.DrawFn], Arguments]:
    def arguments(draw: st.DrawFn) -> Arguments:
        groups, inside, outside = draw(st.integers(1, 2)), draw(sizes), draw(sizes)
        each = st.lists(st.integers(1, 3), min_size=dims, max_size=dims).map(tuple)
        window = draw(each)
        batch = draw(st.sampled_from([(), (0,), (1,), (2,)]))
        image = draw(st.lists(st.integers(0, 6), min_size=dims, max_size=dims))
        x = draw(tensors((*batch, groups * inside, *image)))
        amount = st.one_of(st.integers(1, 3), each)
        # Whether padding times NaN is NaN depends on the library's algorithm.
        return _layer(draw, x, (groups * outside, inside, *window), finite) | {
            "stride": draw(amount),
            "padding": draw(st.one_of(amount, st.sampled_from([0, "same", "valid"]))),
            "dilation": draw(amount),
            "groups": groups,
        }

    return arguments


CALLS: dict[str, st.SearchStrategy[Arguments]] = {
    name: st.composite(arguments)()
    for name, arguments in {
        "masked_conv1d": _masked_conv(1),
        "masked_conv2d": _masked_conv(2),
        "masked_conv3d": _masked_conv(3),
        "masked_linear": _masked_linear,
        "masked_weight": _masked_weight,
        "mask_step_": _mask_step_,
        "l1_rescale_": _l1,
        "l1_project_": _l1,
        "trigger_step_": _trigger_step_,
        "perturb": _perturb,
        "pooled_elu": _pooled_elu,
    }.items()
}


def test_every_op_is_tried() -> None:
    assert {name.rstrip("123d") if "conv" in name else name for name in CALLS} == set(OPS)


def _run(name: str, arguments: Arguments, backend: str, learns: frozenset[str]) -> dict[str, Any]:
    """What a call gave, what it changed, and the gradients; or what it said is wrong."""
    given = {"backend": backend} | {key: made(value) for key, value in arguments.items()}
    for key in learns:
        given[key].requires_grad_()
    function = getattr(awm_kernels, name)
    names = set(inspect.signature(function).parameters)
    result, refused = refusal(lambda: function(**given), names)
    if refused:
        return {"refused": refused}
    found = {key: value for key, value in given.items() if isinstance(value, Tensor)}
    if learns and result.requires_grad:
        result.sum().backward()
        found |= {f"gradient of {key}": given[key].grad for key in learns}
    return {"result": result, **found}


def _agree(ours: dict[str, Any], theirs: dict[str, Any], arguments: Arguments) -> None:
    """Both refuse in the same words, or give the same but for rounding."""
    assert ours.get("refused") == theirs.get("refused")
    dtypes = [value.dtype for value in arguments.values() if isinstance(value, Made)]
    # A kernel may compute in a wider type than the reference.
    wide = all(dtype == torch.float64 for dtype in dtypes)
    least = torch.finfo(torch.float64 if wide else torch.float32).eps
    # On the ball an element may be the small rest of large ones.
    most = max(
        (_most(made(arguments[key])) for key in ("delta", "grad") if key in arguments), default=0
    )
    for key, value in ours.items():
        if key == "refused":
            continue
        other = theirs[key]
        assert (value.dtype, value.shape) == (other.dtype, other.shape), key
        if not value.is_floating_point() or value.is_meta:
            assert value.is_meta or value.equal(other)
            continue
        eps = 16 * max(torch.finfo(value.dtype).eps, least)
        atol = eps * max(most, _most(other))
        torch.testing.assert_close(value, other, rtol=eps, atol=atol, equal_nan=True)


def _most(value: Any) -> float:
    """The largest finite magnitude of a tensor."""
    if not isinstance(value, Tensor) or value.is_meta or value.is_sparse or not value.numel():
        return 0.0
    size = value.detach().double().abs()
    return float(torch.where(size.isfinite(), size, 0).max())


DIFFERENTIABLE = {
    "masked_conv1d": ("x", "theta", "mask", "scale", "bias"),
    "masked_conv2d": ("x", "theta", "mask", "scale", "bias"),
    "masked_conv3d": ("x", "theta", "mask", "scale", "bias"),
    "masked_linear": ("x", "theta", "mask", "scale", "bias"),
    "masked_weight": ("theta", "mask", "scale"),
    "perturb": ("x", "delta"),
    "pooled_elu": ("x",),
}


@pytest.mark.skipif(not backends()["cpu"].available, reason="the CPU kernels are not built")
@pytest.mark.parametrize("name", CALLS)
@given(data=st.data())
def test_the_kernel_gives_what_the_reference_gives(name: str, data: st.DataObject) -> None:
    arguments = data.draw(CALLS[name])
    candidates = [key for key in DIFFERENTIABLE.get(name, ()) if arguments[key] is not None]
    if arguments.get("out") is not None:
        candidates = []
    if name == "pooled_elu" and arguments["x"].values == "special":
        candidates = []  # of several NaN, either gets the gradient
    learns = (
        frozenset(data.draw(st.sets(st.sampled_from(candidates)))) if candidates else frozenset()
    )
    ours = _run(name, arguments, "auto", learns)
    assert "refused" not in ours or (
        "conv" in name and ours["refused"].startswith(("x:", "padding:", "theta:"))
    )
    _agree(ours, _run(name, arguments, "reference", learns), arguments)


@pytest.mark.parametrize("name", CALLS)
@given(data=st.data())
def test_a_wrong_argument_is_named(name: str, data: st.DataObject) -> None:
    arguments = data.draw(CALLS[name])
    wrong = data.draw(st.sampled_from([*arguments, "backend"]))
    value = data.draw(anything)
    # Lengths that there may be, but no memory for.
    assume(not (wrong == "padding" and isinstance(value, int) and 10 < value < 2**31))
    arguments[wrong] = value
    ours = _run(name, arguments, "auto", frozenset())
    theirs = _run(name, arguments, "reference", frozenset())
    _agree(ours, theirs, arguments)
