"""A step over static buffers, captured as a CUDA graph."""

from collections.abc import Callable
from typing import Any

import torch

# Capturing needs the libraries initialised and autograd run once on the stream.
WARM_UPS = 2
Step = Callable[[], None]
Capture = Callable[[Step], Step]


def capturing(device: torch.device, *, enabled: bool) -> Capture:
    """What makes `Captured` of steps that never run at the same time: they share memory."""
    pool = torch.cuda.graph_pool_handle() if device.type == "cuda" and enabled else None
    return lambda step: Captured(step, device, pool, enabled)


class Captured:
    """Calls `function`; on a CUDA device the third call captures it, and later ones replay.

    The first calls do real work, eagerly, so nothing has to be undone after warming up. What
    `function` reads and writes must stay where it is, and it must not wait for the device.

    Args:
        function: takes and returns nothing.
        device: where its tensors are.
        pool: a memory pool to share with other graphs that never run at the same time.
        enabled: False always runs eagerly; so does every device but CUDA.
    """

    def __init__(
        self,
        function: Step,
        device: torch.device,
        pool: Any,
        enabled: bool,
    ) -> None:
        self.function, self.pool = function, pool
        self.stream = torch.cuda.Stream(device) if enabled and device.type == "cuda" else None
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Do the step once."""
        if self.stream is None:
            self.function()
            return
        if self.graph is None and self.calls < WARM_UPS:
            self.calls += 1
            current = torch.cuda.current_stream(self.stream.device)
            self.stream.wait_stream(current)
            with torch.cuda.stream(self.stream):
                self.function()
            current.wait_stream(self.stream)
            return
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, pool=self.pool, stream=self.stream):
                self.function()
        self.graph.replay()
