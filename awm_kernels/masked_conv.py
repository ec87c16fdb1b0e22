"""Convolutions whose weight carries an elementwise mask: conv(x, s · (m ⊙ θ), b)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from awm_kernels import _check, _conv_ops

IntOrTuple = int | tuple[int, ...]


def _tuple(name: str, value: IntOrTuple, dims: int, low: int) -> list[int]:
    values = [value] * dims if isinstance(value, int) else list(value)
    if len(values) == 1:
        values *= dims
    if len(values) != dims or any(v < low for v in values):
        raise ValueError(f"{name}: expected {dims} integer(s) ≥ {low}, got {value}")
    return values


def _padding(
    padding: IntOrTuple | str, kernel: tuple[int, ...], stride: list[int], dilation: list[int]
) -> tuple[list[int], list[int]]:
    """Symmetric padding, and the rest that "same" pads on the far side first."""
    dims = len(kernel)
    if not isinstance(padding, str):
        return _tuple("padding", padding, dims, 0), [0] * dims
    if padding == "valid":
        return [0] * dims, [0] * dims
    if padding != "same":
        raise ValueError(f"padding: expected integers, 'same' or 'valid', got {padding!r}")
    if any(s != 1 for s in stride):
        raise ValueError(f"padding: 'same' expected stride 1, got {stride}")
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    return [t // 2 for t in total], [t % 2 for t in total]


def _masked_conv(
    dims: int,
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    stride: IntOrTuple,
    padding: IntOrTuple | str,
    dilation: IntOrTuple,
    groups: int,
    backend: str,
) -> Tensor:
    _check.floating(x=x, theta=theta, mask=mask, scale=scale, bias=bias)
    if theta.dim() != dims + 2:
        raise ValueError(f"theta: expected {dims + 2} dimensions, got shape {tuple(theta.shape)}")
    if x.dim() not in (dims + 1, dims + 2):
        raise ValueError(
            f"x: expected {dims + 2} dimensions (or {dims + 1}, unbatched), "
            f"got shape {tuple(x.shape)}"
        )
    _check.same_shape("theta", theta, mask=mask)
    _check.shape("scale", scale, (theta.shape[0],))
    _check.shape("bias", bias, (theta.shape[0],))
    _check.same_device("x", x, theta=theta, mask=mask, scale=scale, bias=bias)
    if bias is not None and bias.dtype != x.dtype:
        raise TypeError(f"bias: expected x's dtype {x.dtype}, got {bias.dtype}")
    if groups < 1 or theta.shape[0] % groups:
        raise ValueError(f"groups: expected a divisor of {theta.shape[0]}, got {groups}")
    channels = x.shape[x.dim() - dims - 1]
    if channels != theta.shape[1] * groups:
        raise ValueError(f"x: expected {theta.shape[1] * groups} channels, got {channels}")
    strides = _tuple("stride", stride, dims, 1)
    dilations = _tuple("dilation", dilation, dims, 1)
    pad, far = _padding(padding, tuple(theta.shape[2:]), strides, dilations)
    if any(far):
        x = nn.functional.pad(x, [v for f in reversed(far) for v in (0, f)])
    spans = zip(x.shape[-dims:], pad, dilations, theta.shape[2:], strict=True)
    for size, p, d, k in spans:
        if size + 2 * p < d * (k - 1) + 1:
            raise ValueError(
                f"x: expected padded spatial size ≥ the dilated kernel {d * (k - 1) + 1}, "
                f"got {size + 2 * p}"
            )
    batched = x.dim() == dims + 2
    y: Tensor = _conv_ops.masked_conv(
        x if batched else x.unsqueeze(0),
        theta,
        mask,
        scale,
        bias,
        strides,
        pad,
        dilations,
        groups,
        backend,
    )
    return y if batched else y.squeeze(0)


def masked_conv1d(
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    stride: IntOrTuple = 1,
    padding: IntOrTuple | str = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    scale: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """`masked_conv2d` over one spatial dimension: x (n, c, l), theta and mask (o, c/groups, k)."""
    return _masked_conv(1, x, theta, mask, scale, bias, stride, padding, dilation, groups, backend)


def masked_conv2d(
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    stride: IntOrTuple = 1,
    padding: IntOrTuple | str = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    scale: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """2-d convolution with an elementwise mask on its weight (AWM paper, Eq. 4.3).

    Computes `conv2d(x, W, bias, …)` with W = s · (mask ⊙ theta). Gradients are computed only for
    the arguments that require them; that of the mask is dW ⊙ theta · s, so a frozen network with
    learned masks needs no gradient for `theta`.

        >>> import torch
        >>> from awm_kernels.masked_conv import masked_conv2d
        >>> x, theta = torch.randn(8, 3, 32, 32), torch.randn(16, 3, 3, 3)
        >>> mask = torch.ones_like(theta, requires_grad=True)
        >>> masked_conv2d(x, theta, mask, padding=1).sum().backward()
        >>> mask.grad.shape
        torch.Size([16, 3, 3, 3])

    Args:
        x: (n, c, h, w), or (c, h, w); float32, float64, bfloat16 or float16; any strides
            (channels_last stays channels_last); n = 0 works.
        theta: frozen weight, (o, c/groups, kh, kw); its dtype may differ from `x`'s (float32
            masters under a bfloat16 x): the product is rounded once to `x.dtype`.
        mask: same shape as `theta`.
        bias: (o,), of `x`'s dtype.
        stride, dilation: an integer, or one per dimension.
        padding: the same (zeros), or "same" or "valid".
        groups: divides c and o; groups = c is a depthwise convolution.
        scale: one factor per output channel, (o,); a folded BatchNorm, say.
        backend: "triton" applies the mask as the weight tile is loaded, on channels_last best;
            float32 is multiplied in tf32 where `torch.backends.cudnn` allows it. "reference",
            "cpu" and "cuda" make the weight with the kernel of that name, then call the library's
            convolution. "auto" on a CUDA device does whichever was faster when each pass of the
            shape first ran: see `conv_choices`.

    Returns:
        (n, o, h', w') in `x.dtype`.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
        RuntimeError: the backend asked for is not available; says why and how to get it.
    """
    return _masked_conv(2, x, theta, mask, scale, bias, stride, padding, dilation, groups, backend)


def masked_conv3d(
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    stride: IntOrTuple = 1,
    padding: IntOrTuple | str = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    scale: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """`masked_conv2d` over three spatial dimensions: x (n, c, d, h, w), theta (o, c/groups, …)."""
    return _masked_conv(3, x, theta, mask, scale, bias, stride, padding, dilation, groups, backend)


class _MaskedConv(nn.Module):
    """A convolution with frozen `weight` and `bias` (buffers) and a learned `mask` (parameter)."""

    dims: int
    plain: type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]
    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        padding: IntOrTuple | str = 0,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        conv = self.plain(
            in_channels,
            out_channels,
            kernel_size,  # type: ignore[arg-type]
            stride,  # type: ignore[arg-type]
            padding,  # type: ignore[arg-type]
            dilation,  # type: ignore[arg-type]
            groups,
            bias,
            padding_mode,  # type: ignore[arg-type]
            device,
            dtype,
        )
        self._take(conv)

    def _take(self, conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.groups, self.padding_mode = conv.groups, conv.padding_mode
        self._far_first_padding = list(conv._reversed_padding_repeated_twice)
        self.register_buffer("weight", conv.weight.detach())
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach())
        self.mask = nn.Parameter(torch.ones_like(self.weight))
        self.train(conv.training)

    @classmethod
    def from_conv(cls, conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> Self:
        """A masked twin of `conv` (mask of ones) that shares its weight and bias storage.

        Raises:
            TypeError: `conv` is not a convolution of this dimension.
        """
        if not isinstance(conv, cls.plain):
            raise TypeError(
                f"conv: expected torch.nn.{cls.plain.__name__}, got {type(conv).__name__}"
            )
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        module._take(conv)
        return module

    def extra_repr(self) -> str:
        return (
            f"{self.weight.shape[1] * self.groups}, {self.weight.shape[0]}, "
            f"kernel_size={tuple(self.weight.shape[2:])}, stride={self.stride}, "
            f"padding={self.padding}, groups={self.groups}"
        )

    def folded_weight(self) -> Tensor:
        """mask ⊙ weight, detached: what a plain convolution needs to behave the same."""
        return self.mask.detach() * self.weight

    def forward(self, x: Tensor) -> Tensor:
        padding: IntOrTuple | str = self.padding
        if self.padding_mode != "zeros":
            x = nn.functional.pad(x, self._far_first_padding, mode=self.padding_mode)
            padding = 0
        return _masked_conv(
            self.dims,
            x,
            self.weight,
            self.mask,
            None,
            self.bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            "auto",
        )


class MaskedConv1d(_MaskedConv):
    """`torch.nn.Conv1d` with a frozen weight and a learned `mask`; see `masked_conv1d`."""

    dims, plain = 1, nn.Conv1d


class MaskedConv2d(_MaskedConv):
    """`torch.nn.Conv2d` with a frozen weight and a learned `mask`; see `masked_conv2d`."""

    dims, plain = 2, nn.Conv2d


class MaskedConv3d(_MaskedConv):
    """`torch.nn.Conv3d` with a frozen weight and a learned `mask`; see `masked_conv3d`."""

    dims, plain = 3, nn.Conv3d
