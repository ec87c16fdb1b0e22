"""What `python -m awm_kernels` prints: what is built here, what works, and how to get the rest."""

from __future__ import annotations

import platform
from importlib import import_module
from typing import Any

import torch

from awm_kernels._backend import CUDA_LIBRARY, LIBRARY, backends


def _build() -> dict[str, Any] | None:
    """How the C++ kernels were built; None if they were not."""
    try:
        info = import_module("awm_kernels._build_info")
    except ImportError:
        return None
    return {
        "library": str(LIBRARY) if LIBRARY.exists() else None,
        "compiler": info.compiler(),
        "flags": info.flags(),
        "torch": info.torch_version_built(),
        "cuda_library": str(CUDA_LIBRARY) if CUDA_LIBRARY.exists() else None,
        "cuda_archs": info.cuda_archs(),
        "cuda_toolkit": info.cuda_toolkit(),
        "instruction_set": info.cpu_capability(),
    }


def diagnostics() -> dict[str, Any]:
    """The state of this installation, as plain values that JSON can hold.

    Keys: `python`, `platform`, `torch`, `torch_cuda` (None for a CPU torch), `cuda_device` (None if
    none is visible), `threads`, `build` (None without C++ kernels) and `backends`: for each name
    `available`, and where it is not, `why` and `how` to get it.
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "cuda_device": device,
        "threads": torch.get_num_threads(),
        "build": _build(),
        "backends": {name: status._asdict() for name, status in backends().items()},
    }


def as_text(found: dict[str, Any]) -> str:
    """`diagnostics()` for people to read."""
    lines = [
        f"Python {found['python']} on {found['platform']}",
        f"torch {found['torch']}, {found['threads']} threads, "
        f"GPU: {found['cuda_device'] or 'none visible'}",
        "",
    ]
    build = found["build"]
    if build is None:
        lines.append("C++ kernels: not built, so every op runs in plain PyTorch.")
    else:
        lines += [
            "C++ kernels:",
            f"  library          {build['library'] or 'missing'}",
            f"  compiler         {build['compiler']}",
            f"  flags            {build['flags']}",
            f"  built on torch   {build['torch']} (runs on any torch from 2.11 on)",
            f"  instruction set  {build['instruction_set']}",
            f"  CUDA library     {build['cuda_library'] or 'none'}",
        ]
        if build["cuda_library"]:
            archs = ", ".join(build["cuda_archs"])
            lines.append(f"  GPU code         {archs}, by CUDA {build['cuda_toolkit']}")
    lines += ["", "Backends:"]
    for name, status in found["backends"].items():
        lines.append(f"  {name:<10} {'works' if status['available'] else status['why']}")
        if not status["available"]:
            lines.append(f"  {'':<10} to get it: {status['how']}")
    return "\n".join(lines)
