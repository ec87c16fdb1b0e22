"""Device time of short calls on a GPU, as the choices between kernels are measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

import torch

Call = Callable[[], object]
REPEATS = 10
SPARE_MEMORY = 1 << 30


def allowed(device: torch.device) -> bool:
    """Whether calls may be timed now.

    Not on a CPU (so never in Triton's interpreter), not while a CUDA graph is captured, not with
    less than 1 GiB of the GPU's memory free, and not where the caller asked for deterministic
    algorithms: a choice by time may differ between runs.
    """
    return (
        device.type == "cuda"
        and not torch.are_deterministic_algorithms_enabled()
        and not torch.cuda.is_current_stream_capturing()
        and torch.cuda.mem_get_info(device)[0] >= SPARE_MEMORY
    )


def device_times(
    calls: Sequence[Call], device: torch.device, repeats: int = REPEATS
) -> list[float]:
    """Median time of each call in milliseconds, between events on the current stream.

    Each call runs twice before, which compiles it. The calls take turns; before each, the L2 cache
    is overwritten, three times because that also gives the host time to launch: so this is the time
    on the device.
    """
    with torch.cuda.device(device):
        size = 4 * torch.cuda.get_device_properties(device).L2_cache_size
        cache = torch.empty(max(size, 1 << 24), dtype=torch.uint8, device=device)
        for call in (*calls, *calls):
            call()
        pairs: list[list[tuple[torch.cuda.Event, torch.cuda.Event]]] = [[] for _ in calls]
        for _ in range(repeats):
            for index, call in enumerate(calls):
                start = torch.cuda.Event(enable_timing=True)
                end = torch.cuda.Event(enable_timing=True)
                for _ in range(3):
                    cache.zero_()
                start.record()
                call()
                end.record()
                pairs[index].append((start, end))
        for each in pairs:
            each[-1][1].synchronize()
        return [median(start.elapsed_time(end) for start, end in each) for each in pairs]
