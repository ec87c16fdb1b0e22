"""Which dtype a network is purified in: asked for, or measured."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from awm_defense.networks.masked import mostly_convolutions
from awm_defense.working.mixed_conv import Passes, conv_forward, conv_grads, settings_of

PRECISIONS = ("auto", "fp32", "tf32", "bf16")
REPEATS = 3
# bfloat16 is chosen only if convolutions take at most this share of their float32 time, and a pass
# of a bfloat16 network is float32 only if it takes at most this share of its bfloat16 time: far
# from a tie, so that a noisy machine decides the same on every run.
WORTH_IT, EXCEPTION = 0.85, 0.65
# Passes of a trigger step (b images) and a mask step (2b) together, in units of 2b images:
# forward, input gradient, weight gradient.
SHARES = (1.5, 1.5, 1.0)


@dataclass(frozen=True)
class Precision:
    """How a network is purified; give it to `purify` again for the same masks to the last bit."""

    dtype: torch.dtype = torch.float32
    """Of activations and of weights as the layers read them. Masks and Δ stay in the model's."""
    tf32: bool = False
    """Whether float32 convolutions and products may round their inputs to TF32 (CUDA)."""
    passes: Mapping[str, Passes] = field(default_factory=dict)
    """Convolutions, by name, of which a pass runs in another dtype than `dtype`."""

    @contextmanager
    def active(self) -> Iterator[None]:
        """Sets PyTorch's TF32 switches meanwhile, and cuDNN to kernels that repeat their bits."""
        # The newer names of the switches: reading `allow_tf32` fails where those were used.
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        conv = cudnn.conv  # type: ignore[attr-defined]
        before = conv.fp32_precision, matmul.fp32_precision, cudnn.deterministic, cudnn.benchmark
        conv.fp32_precision = matmul.fp32_precision = "tf32" if self.tf32 else "ieee"
        cudnn.deterministic, cudnn.benchmark = True, False
        try:
            yield
        finally:
            conv.fp32_precision, matmul.fp32_precision = before[:2]
            cudnn.deterministic, cudnn.benchmark = before[2:]

    def describe(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "dtype": str(self.dtype).removeprefix("torch."),
            "tf32": self.tf32,
            "passes": {
                name: {key: str(d).removeprefix("torch.") for key, d in p._asdict().items()}
                for name, p in self.passes.items()
            },
        }


def asked_precision(name: str, dtype: torch.dtype) -> Precision | None:
    """The precision called `name` for a model of `dtype`; None where it is to be measured.

    Raises:
        ValueError: no such precision, or one that a model of this dtype can't have.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {name!r}")
    if dtype != torch.float32:
        if name not in ("auto", "fp32"):
            raise ValueError(f"precision: {name} needs a float32 model, got {dtype}")
        return Precision(dtype)
    fixed = {
        "fp32": Precision(),
        "tf32": Precision(tf32=True),
        "bf16": Precision(torch.bfloat16),
    }
    return fixed.get(name)


def measure(module: nn.Module, forward: Callable[[], Any]) -> Precision:
    """bfloat16 where it is faster on this CPU, pass by pass of each convolution.

    float32 where convolutions don't hold most weights: theirs is all the time that is measured.

    Args:
        module: float32 network whose convolutions are measured.
        forward: runs it once on a batch of the mask phase, 2b images.
    """
    if not mostly_convolutions(module):
        return Precision()
    passes: dict[str, Passes] = {}
    plain = mixed = 0.0
    for name, (conv, shape, last) in _conv_calls(module, forward).items():
        weight = tuple(conv.weight.shape)
        threads = torch.get_num_threads()
        passes[name], before, after = _fastest(weight, shape, settings_of(conv), last, threads)
        plain, mixed = plain + before, mixed + after
    if not mixed < WORTH_IT * plain:
        return Precision()
    half = Passes(*[torch.bfloat16] * 3)
    return Precision(torch.bfloat16, passes={n: p for n, p in passes.items() if p != half})


def _conv_calls(
    module: nn.Module, forward: Callable[[], Any]
) -> dict[str, tuple[nn.Conv2d, tuple[int, ...], bool]]:
    """Each zero-padded Conv2d that runs: itself, its input's shape, whether it's channels_last."""
    found: dict[str, tuple[nn.Conv2d, tuple[int, ...], bool]] = {}
    handles = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d) and takes_passes(layer):

            def note(conv: nn.Conv2d, args: tuple[Tensor, ...], name: str = name) -> None:
                last = args[0].is_contiguous(memory_format=torch.channels_last)
                found[name] = (conv, tuple(args[0].shape), last)

            handles.append(layer.register_forward_pre_hook(note))
    with torch.no_grad():
        forward()
    for handle in handles:
        handle.remove()
    return found


def takes_passes(conv: nn.Conv2d) -> bool:
    """Whether `MixedConv2d` can do what this layer does."""
    return (
        type(conv) is nn.Conv2d
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    )


@functools.cache
def _fastest(
    weight_shape: tuple[int, ...],
    shape: tuple[int, ...],
    settings: tuple[Any, ...],
    channels_last: bool,
    threads: int,
) -> tuple[Passes, float, float]:
    """The dtype of each pass in a bfloat16 network; seconds in float32, and with those."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    generator = torch.Generator().manual_seed(0)

    def like(size: tuple[int, ...]) -> Tensor:
        return torch.randn(size, generator=generator).to(memory_format=layout)

    with torch.no_grad():
        x, weight = like(shape), like(weight_shape)
        full = x, weight, torch.ones_like(conv_forward(x, weight, None, settings, x.dtype))
        half = full[0].bfloat16(), full[1].bfloat16(), full[2].bfloat16()

        def seconds(tensors: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype) -> list[float]:
            x, weight, grad = tensors
            passes = Passes(dtype, dtype, dtype)
            return [
                _time(lambda: conv_forward(x, weight, None, settings, dtype)),
                _time(lambda: conv_grads(grad, x, weight, settings, passes, (True, False))),
                _time(lambda: conv_grads(grad, x, weight, settings, passes, (False, True))),
            ]

        plain = seconds(full, torch.float32)
        pairs = list(zip(seconds(half, torch.bfloat16), seconds(half, torch.float32), strict=True))
    excepted = [cast < EXCEPTION * fast for fast, cast in pairs]
    dtypes = [torch.float32 if slow else torch.bfloat16 for slow in excepted]
    best = [pair[slow] for pair, slow in zip(pairs, excepted, strict=True)]
    return (
        Passes(*dtypes),
        sum(w * t for w, t in zip(SHARES, plain, strict=True)),
        sum(w * t for w, t in zip(SHARES, best, strict=True)),
    )


def _time(call: Callable[[], Any]) -> float:
    call()
    spent = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        spent.append(time.perf_counter() - start)
    return min(spent)
