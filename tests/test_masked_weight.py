"""masked_weight: whole networks in flat buffers, any layout, one rounding."""

from __future__ import annotations

import pytest
import torch

from awm_kernels import masked_weight
from tests.cases import mask_of, rand


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layout_and_rows(layout: torch.memory_format) -> None:
    theta = rand(6, 3, 5, 7).to(memory_format=layout)
    mask, scale = mask_of(6, 3, 5, 7), rand(6, seed=3)
    weight = masked_weight(theta, mask, scale)
    assert weight.stride() == theta.stride()
    torch.testing.assert_close(weight, mask * theta * scale[:, None, None, None])


def test_flat_rows_equal_layer_by_layer() -> None:
    layers = [rand(3, 4, seed=1), rand(2, 5, seed=2)]
    masks = [mask_of(3, 4), mask_of(2, 5)]
    scales = [rand(3, seed=4), rand(2, seed=5)]
    flat = masked_weight(
        torch.cat([t.flatten() for t in layers]),
        torch.cat([m.flatten() for m in masks]),
        torch.cat(scales),
        row_ptr=torch.tensor([0, 4, 8, 12, 17, 22]),
    )
    each = [masked_weight(t, m, s).flatten() for t, m, s in zip(layers, masks, scales, strict=True)]
    torch.testing.assert_close(flat, torch.cat(each))


def test_rounds_once_to_the_wanted_dtype() -> None:
    theta, mask = rand(1000, dtype=torch.float32), mask_of(1000, dtype=torch.float32)
    weight = masked_weight(theta, mask, dtype=torch.bfloat16)
    assert torch.equal(weight, (theta * mask).bfloat16())


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["as theta", "channels_last", "strided"])
def test_out(layout: str, dtype: torch.dtype, backend: str) -> None:
    theta, mask = rand(6, 3, 5, 7, dtype=torch.float32), mask_of(6, 3, 5, 7, dtype=torch.float32)
    scale = rand(6, seed=3, dtype=torch.float32)
    out = torch.full((6, 3, 5, 14 if layout == "strided" else 7), float("nan"), dtype=dtype)
    if layout == "channels_last":
        out = out.to(memory_format=torch.channels_last)
    elif layout == "strided":
        out = out[..., ::2]
    assert masked_weight(theta, mask, scale, out=out, backend=backend) is out
    assert torch.equal(out, masked_weight(theta, mask, scale, dtype=dtype, backend=backend))


def test_out_is_an_op() -> None:
    theta, mask, out = rand(4, 3), mask_of(4, 3), torch.zeros(4, 3).double()
    torch.library.opcheck(
        torch.ops.awm_kernels.masked_weight_out.default, (theta, mask, None, None, out, "auto")
    )


def test_bad_out_is_named() -> None:
    theta = torch.ones(4, 2)
    mask = torch.ones(4, 2, requires_grad=True)
    with pytest.raises(ValueError, match=r"out: expected no argument that requires.*got mask"):
        masked_weight(theta, mask, out=torch.empty(4, 2))
    with torch.no_grad():
        masked_weight(theta, mask, out=torch.empty(4, 2))
    with pytest.raises(ValueError, match=r"out: expected theta's shape \(4, 2\), got \(2, 4\)"):
        masked_weight(theta, theta, out=torch.empty(2, 4))
    with pytest.raises(TypeError, match=r"out: expected dtype's torch.bfloat16, got torch.float32"):
        masked_weight(theta, theta, dtype=torch.bfloat16, out=torch.empty(4, 2))


def test_empty() -> None:
    assert masked_weight(torch.empty(0, 3), torch.empty(0, 3)).shape == (0, 3)


def test_bad_arguments_are_named() -> None:
    theta = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="theta: expected 1 dimension with row_ptr"):
        masked_weight(theta, theta, row_ptr=torch.tensor([0, 8]))
    with pytest.raises(TypeError, match=r"row_ptr: expected torch.int64"):
        masked_weight(theta[0], theta[0], row_ptr=torch.tensor([0.0, 2.0]))
    with pytest.raises(ValueError, match=r"scale: expected shape \(4,\), got \(2,\)"):
        masked_weight(theta, theta, torch.zeros(2))


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_rows_that_do_not_fit(backend: str) -> None:
    flat, scale = torch.rand(8), torch.ones(2)
    for given in ([0, 4, 9], [1, 4, 8], [0, 9, 8], [0, 4, 10**12]):
        for out in (None, torch.empty(8)):
            with pytest.raises(ValueError, match="row_ptr: expected ascending offsets from 0 to 8"):
                masked_weight(
                    flat, flat, scale, row_ptr=torch.tensor(given), out=out, backend=backend
                )
    spread = torch.tensor([[0, 5], [4, 5], [8, 5]])[:, 0]
    expected = masked_weight(flat, flat, scale, row_ptr=spread.contiguous(), backend=backend)
    assert torch.equal(masked_weight(flat, flat, scale, row_ptr=spread, backend=backend), expected)
    with pytest.raises(ValueError, match="theta: expected at least 1 dimension with scale"):
        masked_weight(flat[0], flat[0], torch.ones(0), backend=backend)


def test_an_expanded_out_is_refused() -> None:
    flat = torch.rand(8)
    with pytest.raises(ValueError, match="out: expected a tensor to write to"):
        masked_weight(flat, flat, out=torch.rand(1).expand(8))
