"""Libraries that tests compile for themselves."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
EMULATOR = ROOT / "tests" / "cuda_on_cpu"
CUDA_ON_CPU = "libawm_cuda_on_cpu.so"
TORCH = Path(torch.__file__).parent
FLAGS = [
    *("-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"),
    *("-Wall", "-Wno-unknown-pragmas", "-Werror"),
    *("-isystem", str(TORCH / "include"), "-DTORCH_TARGET_VERSION=0x020b000000000000"),
]


def compile_library(path: Path, sources: Iterable[Path], flags: Iterable[str]) -> Path:
    """Compile C++ and CUDA sources, one a core at a time, and link them with torch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A sanitizer that this process runs under is none of the compiler's.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}

    def run(*command: object) -> None:
        words = ["c++", *map(str, command), *flags]
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def compile_one(source: Path) -> Path:
        target = path.with_name(f"{path.stem}.{source.name}.o")
        run("-x", "c++", *FLAGS, "-c", source, "-o", target)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    # A function of torch that the sources also have is taken from them.
    run("-shared", "-Wl,-Bsymbolic", *objects, "-o", path, f"-L{TORCH / 'lib'}", "-ltorch_cpu")
    return path


def cuda_on_cpu(path: Path, flags: Iterable[str], sources: Iterable[Path] = ()) -> Path:
    """Compile the CUDA kernels for the CPU, or other sources; see cuda_on_cpu/cuda_runtime.h."""
    kernels = [*(ROOT / "csrc" / "cuda").glob("*.cu"), *EMULATOR.glob("*.cpp")]
    flags = ["-DUSE_CUDA", f"-I{EMULATOR}", *flags]
    return compile_library(path, list(sources) or kernels, flags)
