"""The kernels under GCC's sanitizers: how they are built, and the process that tests them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.compiled import CUDA_ON_CPU, ROOT, compile_library, cuda_on_cpu

HERE = Path(__file__).parent
COMMON = [
    *("-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all"),
    # One version of each kernel, not one for each instruction set: it is the source that is tried.
    "-Dtarget_clones(...)=",
]
FLAGS = {
    "address": ["-fsanitize=address,undefined", *COMMON],
    "thread": ["-fsanitize=thread", *COMMON],
}
OPTIONS = {
    # Python frees little when it ends.
    "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}


def environment(sanitizer: str) -> dict[str, str]:
    """Of a Python process that may load a library that was built with a sanitizer."""
    # The sanitizer must come first of all, and finds C++'s exceptions only where they are loaded.
    names = ("libasan.so" if sanitizer == "address" else "libtsan.so", "libstdc++.so")
    found = [
        subprocess.check_output(["c++", f"-print-file-name={name}"], text=True).strip()
        for name in names
    ]
    one_thread = {"OMP_NUM_THREADS": "1"}
    return os.environ | OPTIONS | one_thread | {"LD_PRELOAD": " ".join(found)}


def compile_cpu(path: Path, sanitizer: str, sources: Iterable[Path]) -> Path:
    """Compile sources with a sanitizer; for threads, with a parallel_for that it understands."""
    threads = [HERE / "parallel.cpp"] if sanitizer == "thread" else []
    return compile_library(path, [*sources, *threads], FLAGS[sanitizer])


def compile_kernels(folder: Path, sanitizer: str) -> None:
    """The libraries of the kernels; those for CUDA run on one thread, so not for `thread`."""
    compile_cpu(folder / "libawm_cpu.so", sanitizer, (ROOT / "csrc" / "cpu").glob("*.cpp"))
    if sanitizer == "address":
        cuda_on_cpu(folder / CUDA_ON_CPU, FLAGS[sanitizer])
