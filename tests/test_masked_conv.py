"""masked_conv1d/2d/3d and their modules against torch's convolutions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from awm_kernels.masked_conv import (
    MaskedConv1d,
    MaskedConv2d,
    MaskedConv3d,
    masked_conv1d,
    masked_conv2d,
    masked_conv3d,
)
from tests.cases import mask_of, present, rand

MASKED = {1: masked_conv1d, 2: masked_conv2d, 3: masked_conv3d}
PLAIN = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1},
    {"dilation": 2, "padding": 2},
    {"padding": "same"},
    {"padding": "valid"},
    {"groups": 2},
    {"groups": 4},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_equals_the_plain_convolution_of_the_masked_weight(
    dims: int, options: dict[str, Any]
) -> None:
    groups = options.get("groups", 1)
    shape = (4, 4 // groups, *([3, 2, 3][:dims]))
    x = rand(2, 4, *[7, 6, 5][:dims]).requires_grad_()
    theta, mask = rand(*shape, seed=1), mask_of(*shape).requires_grad_()
    bias, scale = rand(4, seed=2), rand(4, seed=3)
    y = MASKED[dims](x, theta, mask, bias, scale=scale, **options)
    factor = scale.reshape(-1, *[1] * (dims + 1))
    expected = PLAIN[dims](x, mask * theta * factor, bias, **options)
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(y)
    ours = torch.autograd.grad(y, (x, mask), grad)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, (x, mask), grad))


def test_depthwise_gradient_of_theta_bias_and_scale() -> None:
    leaves = [rand(5, 1, 3, 3), mask_of(5, 1, 3, 3), rand(5, seed=2), rand(5, seed=3)]
    theta, mask, bias, scale = (leaf.requires_grad_() for leaf in leaves)
    x = rand(3, 5, 8, 8)
    y = masked_conv2d(x, theta, mask, bias, groups=5, scale=scale)
    expected = functional.conv2d(x, theta * mask * scale[:, None, None, None], bias, groups=5)
    grad = torch.randn_like(y)
    wanted = (theta, mask, bias, scale)
    torch.testing.assert_close(
        torch.autograd.grad(y, wanted, grad), torch.autograd.grad(expected, wanted, grad)
    )


def test_channels_last_stays_channels_last() -> None:
    x = rand(2, 4, 6, 6, dtype=torch.float32).to(memory_format=torch.channels_last)
    theta = rand(8, 4, 3, 3, dtype=torch.float32).to(memory_format=torch.channels_last)
    mask = mask_of(8, 4, 3, 3, dtype=torch.float32)
    y = masked_conv2d(x, theta, mask)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, functional.conv2d(x, theta * mask))


def test_empty_batch_has_gradients() -> None:
    mask = mask_of(4, 3, 3, 3).requires_grad_()
    y = masked_conv2d(torch.empty(0, 3, 8, 8, dtype=torch.float64), rand(4, 3, 3, 3), mask)
    y.sum().backward()
    assert y.shape == (0, 4, 6, 6)
    assert present(mask.grad).count_nonzero() == 0


def test_unbatched() -> None:
    x, theta, mask = rand(3, 8, 8), rand(4, 3, 3, 3), mask_of(4, 3, 3, 3)
    torch.testing.assert_close(
        masked_conv2d(x, theta, mask), masked_conv2d(x[None], theta, mask)[0]
    )


def test_bfloat16_input_with_float32_masters() -> None:
    x = rand(2, 4, 6, 6, dtype=torch.bfloat16)
    theta, mask = rand(8, 4, 3, 3, dtype=torch.float32), mask_of(8, 4, 3, 3, dtype=torch.float32)
    y = masked_conv2d(x, theta, mask.requires_grad_())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, functional.conv2d(x, (theta * mask).bfloat16()))
    y.sum().backward()
    assert present(mask.grad).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 5, 8, 8)}, "x: expected 4 channels, got 5"),
        ({"mask": torch.zeros(8, 4, 3, 1)}, "mask: expected theta's shape"),
        ({"bias": torch.zeros(7)}, r"bias: expected shape \(8,\), got \(7,\)"),
        ({"scale": torch.zeros(1)}, r"scale: expected shape \(8,\)"),
        ({"stride": 0}, "stride: expected an integer ≥ 1, got 0"),
        ({"padding": "full"}, "padding: expected integers, 'same' or 'valid'"),
        ({"groups": 3}, "groups: expected a divisor of 8, got 3"),
        ({"x": torch.zeros(2, 4, 2, 2)}, "x: expected padded spatial size"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    arguments = {
        "x": torch.zeros(2, 4, 8, 8),
        "theta": torch.zeros(8, 4, 3, 3),
        "mask": torch.zeros(8, 4, 3, 3),
    }
    with pytest.raises(ValueError, match=message):
        masked_conv2d(**{**arguments, **change})


def test_integer_input_is_refused() -> None:
    with pytest.raises(TypeError, match=r"x: expected a floating-point tensor, got torch.int64"):
        masked_conv2d(torch.zeros(1, 1, 3, 3).long(), torch.zeros(1, 1, 1, 1), torch.zeros(1))


@pytest.mark.parametrize(
    ("masked", "plain", "shape"),
    [
        (MaskedConv1d, nn.Conv1d, (2, 4, 9)),
        (MaskedConv2d, nn.Conv2d, (2, 4, 9, 8)),
        (MaskedConv3d, nn.Conv3d, (2, 4, 6, 5, 4)),
    ],
)
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_module_from_conv_computes_the_same(
    masked: Any, plain: Any, shape: tuple[int, ...], padding_mode: str
) -> None:
    conv = plain(4, 6, 3, padding=1, groups=2, padding_mode=padding_mode)
    module = masked.from_conv(conv)
    x = torch.randn(shape)
    torch.testing.assert_close(module(x), conv(x))
    assert [name for name, _ in module.named_parameters()] == ["mask"]
    assert module.weight.data_ptr() == conv.weight.data_ptr()
    module(x).sum().backward()
    assert module.mask.grad.shape == conv.weight.shape


def test_folded_weight_reproduces_the_masked_module() -> None:
    module = MaskedConv2d(3, 5, 3)
    with torch.no_grad():
        module.mask.uniform_()
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(functional.conv2d(x, module.folded_weight(), module.bias), module(x))


def test_from_conv_refuses_another_dimension() -> None:
    with pytest.raises(TypeError, match=r"conv: expected torch.nn.Conv2d, got Conv1d"):
        MaskedConv2d.from_conv(nn.Conv1d(1, 1, 1))
