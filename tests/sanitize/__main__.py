"""`python -m tests.sanitize address`, or `thread`: the tests of the kernels under a sanitizer.

`address` finds accesses out of bounds and undefined behaviour, in the C++ kernels and in those for
CUDA, compiled for the CPU. `thread` finds data races between the threads of one call of a C++
kernel and between calls at the same time. It needs GCC on Linux. That both find what they are
for is shown by tests/test_sanitizers.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from tests.compiled import ROOT
from tests.sanitize import FLAGS, compile_kernels, environment

TESTS = {
    "address": ["test_cpu_kernels.py", "test_pooled_elu.py", "test_cuda_kernels.py"],
    "thread": ["test_cpu_kernels.py", "test_concurrent.py"],
}
# Whose threads are OpenMP's, which ThreadSanitizer can't follow; parallel.cpp has others.
OPENMP = "_threads"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sanitizer", choices=list(FLAGS))
    sanitizer = parser.parse_args().sanitizer
    folder = ROOT / "build" / f"sanitize-{sanitizer}"
    compile_kernels(folder, sanitizer)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    # What a sanitizer says must not be captured: it ends the process.
    command += ["-s", "-k", f"not {OPENMP}"] if sanitizer == "thread" else ["-s"]
    command += [f"tests/{name}" for name in TESTS[sanitizer]]
    inside = environment(sanitizer) | {"AWM_SANITIZED": str(folder)}
    return subprocess.run(command, cwd=ROOT, env=inside).returncode


if __name__ == "__main__":
    sys.exit(main())
