"""ELU behind max-pooling, in one pass."""

from __future__ import annotations

from torch import Tensor

from awm_kernels import _check, _pooled_elu_op


def pooled_elu(x: Tensor, window: int = 2, *, alpha: float = 1.0, backend: str = "auto") -> Tensor:
    """`elu(max_pool2d(x, window), alpha)`, which is `max_pool2d(elu(x, alpha), window)`.

    A window of 1 is plain ELU, and `alpha=0` is ReLU. There are kernels for the CPU alone; on
    another device PyTorch's own ops run.

    Args:
        x: (n, c, h, w); fastest in channels_last.
        window: side of the square, 1 or 2, and its stride; what is left over at the bottom and at
            the right is not used.
        alpha: −alpha is the lower limit of the result; ≥ 0.
        backend: "auto", "reference" or "cpu".

    Returns:
        (n, c, h // window, w // window) in x's dtype, channels_last. The gradient goes to the first
        of the largest elements of each window, as in `max_pool2d`.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    _check.floating(x=x)
    if x.dim() != 4:
        raise ValueError(f"x: expected 4 dimensions (n, c, h, w), got shape {tuple(x.shape)}")
    if window not in (1, 2):
        raise ValueError(f"window: expected 1 or 2, got {window!r}")
    _check.at_least("alpha", alpha, 0)
    y: Tensor = _pooled_elu_op.pooled_elu(x, window, alpha, backend)
    return y
