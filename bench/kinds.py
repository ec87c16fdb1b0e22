"""What share of the time each kind of op has, by PyTorch's profiler. CPU only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

# An op belongs to the first kind that has a part of its name.
KINDS = {
    "convolutions, forward": ("mkldnn_convolution", "slow_conv", "thnn_conv"),
    "convolutions, backward": ("convolution_backward",),
    "activations and pooling": ("elu", "relu", "clamp", "threshold", "pool"),
    "masks (mask_step_, masked_weight)": ("mask_step_", "masked_weight"),
    "trigger (perturb, trigger_step_, L1 ball)": ("perturb", "trigger_step_", "l1_"),
    "linear layers": ("addmm", "aten::mm"),
    "copies, sums, fills": ("copy_", "aten::add", "fill_", "zero_", "cat", "index", "stack"),
}
OTHER = "other ops, Python between ops"


def kind_of(op: str) -> str:
    return next((kind for kind, parts in KINDS.items() if any(p in op for p in parts)), OTHER)


def shares(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What `call` returns, and the share of its time by kind of op."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        result = call()
    spent: dict[str, float] = dict.fromkeys([*KINDS, OTHER], 0.0)
    for event in profiler.key_averages():
        spent[kind_of(event.key)] += event.self_cpu_time_total
    whole = sum(spent.values())
    return result, {kind: part / whole for kind, part in spent.items()}
