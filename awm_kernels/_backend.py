"""Which backends are there, and which one a call uses."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from awm_kernels import _check

BACKENDS = ("reference", "cpu", "cuda", "triton")
# Each op, and the backends with kernels of its own, best first: in csrc/cpu, csrc/cuda and _triton,
# in a file of the op's name. The reference has every op. Where a layer has no kernel of its own,
# its W is made by masked_weight's, and the library's convolution or product does the rest.
OPS: dict[str, tuple[str, ...]] = {
    "masked_conv": ("triton",),
    "masked_linear": ("triton",),
    "masked_weight": ("cpu", "cuda", "triton"),
    "mask_step_": ("cpu", "cuda", "triton"),
    "l1_rescale_": ("cpu", "cuda", "triton"),
    "l1_project_": ("cpu", "cuda", "triton"),
    "perturb": ("cpu", "cuda", "triton"),
    "trigger_step_": ("cpu", "cuda", "triton"),
    "pooled_elu": ("cpu",),
}
_ON_GPU = {op: tuple(name for name in names if name != "cpu") for op, names in OPS.items()}
KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float64)
LIBRARY = Path(__file__).parent / "lib" / "libawm_cpu.so"
CUDA_LIBRARY = LIBRARY.with_name("libawm_cuda.so")
OLDEST_CAPABILITY = (8, 0)


class BackendStatus(NamedTuple):
    """Whether a backend works here; if not, why, and how to get it."""

    available: bool
    why: str
    how: str


@functools.cache
def _cpu_status() -> BackendStatus:
    rebuild = "install a C++20 compiler, then: AWM_CPU=on pip install --no-build-isolation ."
    if not LIBRARY.exists():
        return BackendStatus(False, f"{LIBRARY.name} was not built with this installation", rebuild)
    try:
        torch.ops.load_library(str(LIBRARY))
    except (OSError, RuntimeError) as error:
        return BackendStatus(False, f"{LIBRARY.name} does not load: {error}", rebuild)
    return BackendStatus(True, "", "")


@functools.cache
def _cuda_status() -> BackendStatus:
    rebuild = (
        "install a CUDA toolkit (12.0 or newer), then: "
        "AWM_CUDA=on pip install --no-build-isolation ."
    )
    if not CUDA_LIBRARY.exists():
        why = f"{CUDA_LIBRARY.name} was not built with this installation"
        return BackendStatus(False, why, rebuild)
    # A CPU torch lacks what the library asks of torch, so it is not even loaded.
    if torch.version.cuda is None:
        why = f"torch {torch.__version__} is a CPU build"
        return BackendStatus(False, why, "install a CUDA build of torch (pytorch.org)")
    try:
        torch.ops.load_library(str(CUDA_LIBRARY))
    except (OSError, RuntimeError) as error:
        return BackendStatus(False, f"{CUDA_LIBRARY.name} does not load: {error}", rebuild)
    if not torch.cuda.is_available():
        return BackendStatus(False, "no CUDA device is visible", "run on a CUDA machine")
    misfits = [_device_misfit(index) for index in range(torch.cuda.device_count())]
    if all(misfits):
        return BackendStatus(False, misfits[0], "use a newer GPU, or triton on this one")
    return BackendStatus(True, "", "")


@functools.cache
def _device_misfit(index: int) -> str:
    """Why the CUDA kernels can't run on this device; empty if they can.

    Devices newer than those that they were compiled for run them too, from PTX.
    """
    capability = torch.cuda.get_device_capability(index)
    if capability >= OLDEST_CAPABILITY:
        return ""
    found = "".join(map(str, capability))
    return f"it takes GPUs from sm_80 on, {torch.cuda.get_device_name(index)} is sm_{found}"


@functools.cache
def _triton_status() -> BackendStatus:
    if importlib.util.find_spec("triton") is None:
        return BackendStatus(False, "triton is not installed", "pip install triton")
    if torch.cuda.is_available() or interpreting():
        return BackendStatus(True, "", "")
    return BackendStatus(
        False,
        "no CUDA device is visible",
        "run on a CUDA machine; TRITON_INTERPRET=1 (set before Python starts) runs the kernels "
        "slowly on CPU tensors, for tests",
    )


def interpreting() -> bool:
    """Whether Triton kernels run on CPU tensors, in Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


_STATUS: dict[str, Callable[[], BackendStatus]] = {
    "reference": lambda: BackendStatus(True, "", ""),
    "cpu": _cpu_status,
    "cuda": _cuda_status,
    "triton": _triton_status,
}


def backends() -> dict[str, BackendStatus]:
    """The state of every backend, by name."""
    return {name: status() for name, status in _STATUS.items()}


def _fits(backend: str, tensors: list[Tensor]) -> str:
    """Why `backend` can't take these tensors; empty if it can."""
    if backend == "reference":
        return ""
    device = tensors[0].device.type
    devices: tuple[str, ...] = {"cpu": ("cpu",), "cuda": ("cuda",), "triton": ("cuda",)}[backend]
    if backend == "triton" and interpreting():
        devices = ("cuda", "cpu")
    if device not in devices:
        return f"it takes {' or '.join(devices)} tensors, got {device}"
    for tensor in tensors:
        if tensor.dtype not in KERNEL_DTYPES:
            return f"it takes float32, bfloat16 and float64, got {tensor.dtype}"
    return _device_misfit(tensors[0].device.index) if backend == "cuda" else ""


def choose(backend: str, *tensors: Tensor | None, op: str = "masked_conv") -> str:
    """The backend that a call of `op` with `backend=` on these tensors runs on.

    "auto" takes the compiled CPU kernels for CPU tensors; for CUDA tensors the CUDA kernels, or
    else Triton, of those that `op` has (see `OPS`); and the PyTorch reference where these are
    missing or don't take the dtype.

    Raises:
        TypeError, ValueError: `backend` or `op` is no name of one, the op has no kernels for it, or
            it can't take the tensors.
        RuntimeError: the backend asked for is not available; says why and how to get it.
    """
    _check.exactly(str, backend=backend, op=op)
    if op not in OPS:
        raise ValueError(f"op: expected one of {', '.join(OPS)}, got {op!r}")
    present = [tensor for tensor in tensors if tensor is not None]
    for tensor in present:
        _check.exactly(Tensor, tensors=tensor)
    if not present:
        raise ValueError("tensors: expected at least one, got none")
    if backend == "auto":
        offered: dict[str, tuple[str, ...]] = {"cpu": ("cpu",), "cuda": _ON_GPU[op]}
        for candidate in offered.get(present[0].device.type, ()):
            if _STATUS[candidate]().available and not _fits(candidate, present):
                return candidate
        return "reference"
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of auto, {', '.join(BACKENDS)}, got {backend!r}")
    if backend in ("cuda", "triton") and not _ON_GPU[op]:
        raise ValueError(f"backend: expected auto, reference or cpu for {op}, got {backend!r}")
    status = _STATUS[backend]()
    if not status.available:
        raise RuntimeError(
            f"backend {backend!r} is not available: {status.why}. To get it: {status.how}."
        )
    misfit = _fits(backend, present)
    if misfit:
        raise ValueError(f"backend {backend!r} can't run this call: {misfit}")
    return backend
