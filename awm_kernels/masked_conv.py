"""Convolutions whose weight carries an elementwise mask: conv(x, s · (m ⊙ θ), b)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from awm_kernels import _check, _choice
from awm_kernels import _reference as reference
from awm_kernels._backend import choose
from awm_kernels._layout import absent, ordered, scale_for
from awm_kernels._registration import kernel
from awm_kernels.masked_weight import make_weight, weight_grads

IntOrTuple = int | tuple[int, ...]


def _tuple(name: str, value: IntOrTuple, dims: int, low: int) -> list[int]:
    several = list(value) if isinstance(value, Sequence) else [value]
    values = [_check.integer(name, one, low) for one in several]
    if len(values) == 1:
        values *= dims
    if len(values) != dims:
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
    optional = _check.present(scale=scale, bias=bias)
    _check.floating(x=x, theta=theta, mask=mask, **optional)
    _check.exactly(str, backend=backend)
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
    if 0 in (theta.shape[0], *theta.shape[2:]):
        raise ValueError(f"theta: expected channels and a window, got shape {tuple(theta.shape)}")
    groups = _check.integer("groups", groups, 1)
    if theta.shape[0] % groups:
        raise ValueError(f"groups: expected a divisor of {theta.shape[0]}, got {groups}")
    channels = x.shape[x.dim() - dims - 1]
    if channels != theta.shape[1] * groups:
        raise ValueError(f"x: expected {theta.shape[1] * groups} channels, got {channels}")
    if 0 in x.shape[-dims:]:  # PyTorch's convolution may crash on it
        raise ValueError(f"x: expected spatial sizes ≥ 1, got shape {tuple(x.shape)}")
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
    _check.reverse_only(f"masked_conv{dims}d", x=x, theta=theta, mask=mask, **optional)
    batched = x.dim() == dims + 2
    y: Tensor = _op(
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
        NotImplementedError: an argument carries a forward-mode derivative.
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


def _params_2d(
    stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> _choice.ConvParams:
    if len(stride) == 1:
        return _choice.ConvParams([1, *stride], [0, *padding], [1, *dilation], groups)
    return _choice.ConvParams(stride, padding, dilation, groups)


def _as_2d(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(2) if tensor.dim() == 3 else tensor


def _tf32(x: Tensor) -> bool:
    # Not `allow_tf32`: reading that fails where the newer settings were used.
    return x.dtype == torch.float32 and torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]


@torch.library.custom_op("awm_kernels::masked_conv", mutates_args=())
def _op(
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    backend: str,
) -> Tensor:
    chosen = choose(backend, x, theta, mask, op="masked_conv")
    if chosen == "reference":
        return reference.masked_conv(x, theta, mask, scale, bias, stride, padding, dilation, groups)
    weights = _choice.for_weights(backend, chosen)

    def library() -> Tensor:
        weight = make_weight(theta, mask, scale, None, x.dtype, weights)
        return reference.conv(x, weight, bias, stride, padding, dilation, groups)

    if not _choice.may_fuse(backend, chosen, x):
        return library()
    params, tf32 = _params_2d(stride, padding, dilation, groups), _tf32(x)
    x2, theta2 = _as_2d(x), _as_2d(theta)

    def fused() -> Tensor:
        factors = (ordered(theta2), _as_2d(mask), scale_for(theta, scale))
        added = None if bias is None else bias.contiguous()
        form = _choice.format_of(x2, theta2)
        y = _fused("masked_conv_forward", x2, *factors, added, *params, tf32, form)
        return y.squeeze(2) if x.dim() == 3 else y

    return _choice.either("forward", backend, x2, theta2, params, tf32, fused, library)


@_op.register_fake
def _(
    x: Tensor, theta: Tensor, mask: Tensor, scale: Tensor | None, bias: Tensor | None, *rest: Any
) -> Tensor:
    *params, _ = rest
    return reference.conv(x, torch.empty_like(ordered(theta), dtype=x.dtype), bias, *params)


@torch.library.custom_op("awm_kernels::masked_conv_backward", mutates_args=())
def _backward_op(
    grad: Tensor,
    x: Tensor,
    theta: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    needs: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    need_x, need_theta, need_mask, need_scale, need_bias = needs
    chosen = choose(backend, x, theta, mask, op="masked_conv")
    weights = _choice.for_weights(backend, chosen)

    def library(need_x: bool, need_weight: bool, need_bias: bool) -> tuple[Tensor | None, ...]:
        # The gradients of the weight and the bias don't read the weight.
        weight = (
            make_weight(theta, mask, scale, None, x.dtype, weights)
            if need_x
            else torch.empty_like(ordered(theta), dtype=x.dtype)
        )
        place = (stride, padding, dilation, groups)
        return reference.conv_backward(grad, x, weight, *place, need_x, need_weight, need_bias)

    grad_x, grad_weight, grad_bias = None, None, None
    grads = (absent(theta), absent(mask), absent(theta))
    need_weight = need_theta or need_mask or need_scale
    if not _choice.may_fuse(backend, chosen, x):
        grad_x, grad_weight, grad_bias = library(need_x, need_weight, need_bias)
    else:
        params, tf32 = _params_2d(stride, padding, dilation, groups), _tf32(x)
        grad2, x2, theta2, mask2 = map(_as_2d, (grad, x, theta, mask))
        dense, factor = ordered(theta2), scale_for(theta, scale)

        def fused_input_grad() -> Tensor:
            form = _choice.format_of(x2, theta2)
            given = (grad2, dense, mask2, factor, x2.shape)
            return _fused("masked_conv_input_grad", *given, *params, tf32, form).view(x.shape)

        def library_input_grad() -> Tensor:
            return _present(library(True, False, False)[0])

        def fused_mask_grad() -> Tensor:
            found = _fused("masked_conv_mask_grad", grad2, x2, dense, factor, *params, tf32)
            return found.to(mask.dtype).view(mask.shape)

        def library_mask_grad() -> Tensor:
            found = _present(library(False, True, False)[1])
            return weight_grads(found, theta, mask, scale, needs[1:4], weights)[1]

        shapes = (backend, x2, theta2, params, tf32)
        if need_x:
            grad_x = _choice.either("input gradient", *shapes, fused_input_grad, library_input_grad)
        if need_mask and not (need_theta or need_scale):
            made = _choice.either("mask gradient", *shapes, fused_mask_grad, library_mask_grad)
            grads = (grads[0], made, grads[2])
        elif need_weight:
            grad_weight = library(False, True, False)[1]
        if need_bias:
            grad_bias = grad2.sum(dim=(0, 2, 3))
    if need_weight and grad_weight is not None:
        grads = weight_grads(grad_weight, theta, mask, scale, needs[1:4], weights)
    return (
        grad_x if need_x and grad_x is not None else absent(x),
        *grads,
        grad_bias if need_bias and grad_bias is not None else absent(x),
    )


def _fused(name: str, *arguments: Any) -> Tensor:
    made: Tensor = kernel("masked_conv", name, "triton")(*arguments)
    return made


def _present(grad: Tensor | None) -> Tensor:
    assert grad is not None
    return grad


@_backward_op.register_fake
def _(
    grad: Tensor, x: Tensor, theta: Tensor, mask: Tensor, scale: Tensor | None, *rest: Any
) -> tuple[Tensor, ...]:
    stride, padding, dilation, groups, needs, _ = rest
    weight = torch.empty_like(ordered(theta), dtype=x.dtype)
    grad_x, grad_weight, _ = reference.conv_backward(
        grad, x, weight, stride, padding, dilation, groups, needs[0], any(needs[1:4]), False
    )
    made = (
        grad_x,
        None if grad_weight is None else torch.empty_like(ordered(grad_weight), dtype=theta.dtype),
        torch.empty_like(ordered(theta), dtype=mask.dtype),
        scale,
        x.new_empty(theta.shape[0]),
    )
    nothing = (absent(x), absent(theta), absent(mask), absent(theta), absent(x))
    return tuple(
        torch.empty_like(value) if need and value is not None else without
        for need, value, without in zip(needs, made, nothing, strict=True)
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, theta, mask, scale, _, *ctx.params, ctx.backend = inputs
    ctx.save_for_backward(x, theta, mask, scale)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:5])
    grads = torch.ops.awm_kernels.masked_conv_backward(
        grad, *ctx.saved_tensors, *ctx.params, needs, ctx.backend
    )
    asked = (g if need else None for g, need in zip(grads, needs, strict=True))
    return (*asked, *(None for _ in range(5)))


_op.register_autograd(_backward, setup_context=_setup)
