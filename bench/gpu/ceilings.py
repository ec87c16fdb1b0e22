"""What this device can do at most: copy, matrix products, an empty kernel."""

from __future__ import annotations

import functools

import torch

from bench.gpu.setting import DEVICE, Row, Rows, size, times


@functools.cache
def copy_rate() -> float:
    """GB/s of a device-to-device copy, bytes read plus bytes written."""
    source = torch.rand(size(1 << 30, 1 << 16), device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.nbytes / times(lambda: target.copy_(source))[0] / 1e6


@functools.cache
def empty_kernel() -> float:
    """Milliseconds of the least that one launch can take."""
    one = torch.ones(1, device=DEVICE)
    return times(lambda: one.add_(1))[0]


def matmul_rate(dtype: torch.dtype) -> float:
    """TFLOP/s of a square product on random data; float32 in tf32."""
    side = size(8192, 64)
    torch.backends.cuda.matmul.allow_tf32 = True
    a, b = (torch.randn(side, side, device=DEVICE).to(dtype) for _ in range(2))
    rate = 2 * side**3 / times(lambda: a @ b)[0] / 1e9
    torch.backends.cuda.matmul.allow_tf32 = False
    return rate


def rows() -> Rows:
    yield Row("ceiling: device-to-device copy", copy_rate(), "GB/s")
    yield Row("ceiling: bfloat16 matrix product", matmul_rate(torch.bfloat16), "TFLOP/s")
    yield Row("ceiling: tf32 matrix product", matmul_rate(torch.float32), "TFLOP/s")
    yield Row("ceiling: empty kernel", 1e3 * empty_kernel(), "us")
