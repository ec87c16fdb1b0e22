"""The sanitizers find mistakes where `python -m tests.sanitize` looks for them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compiled import EMULATOR, ROOT, cuda_on_cpu
from tests.sanitize import FLAGS, HERE, compile_cpu, environment

if sys.platform != "linux" or shutil.which("c++") is None:
    pytest.skip("needs GCC on Linux", allow_module_level=True)

pytestmark = pytest.mark.slow

# A tensor of torch's is handed over, as to the kernels.
CALL = """
import ctypes, sys, torch
tensor = torch.zeros(64)
values, count = ctypes.c_void_p(tensor.data_ptr()), ctypes.c_int64(64)
library = ctypes.CDLL(sys.argv[1])
exec(f"library.{sys.argv[2]}")
print("it went on")
"""


@pytest.fixture(scope="module", params=["address", "thread"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with mistakes, in a folder of the sanitizer's name."""
    path = tmp_path_factory.mktemp("sanitize") / request.param / "mistakes.so"
    return compile_cpu(path, request.param, [HERE / "mistakes.cpp"])


FOUND = {
    ("address", "read_beyond"): "AddressSanitizer: heap-buffer-overflow",
    ("address", "write_beyond"): "AddressSanitizer: heap-buffer-overflow",
    ("address", "overflow"): "runtime error: signed integer overflow",
    ("address", "misaligned"): "runtime error: load of misaligned address",
    ("thread", "race"): "ThreadSanitizer: data race",
}


@pytest.mark.parametrize("name", ["read_beyond", "write_beyond", "overflow", "misaligned", "race"])
def test_mistakes_are_found(built: Path, name: str) -> None:
    done = call(built, f"{name}(values, count)")
    if (built.parent.name, name) in FOUND:
        assert FOUND[built.parent.name, name] in done.stderr
        assert f" {name}" in done.stderr
        assert done.returncode != 0 and "it went on" not in done.stdout
    else:
        assert done.returncode == 0


def test_what_is_none_is_not_found(built: Path) -> None:
    done = call(built, "none(values, count)")
    assert (done.returncode, done.stderr) == (0, "")
    assert "it went on" in done.stdout


def test_emulated_shared_memory_has_an_end(tmp_path: Path) -> None:
    sources = EMULATOR.glob("*.cpp")
    path = cuda_on_cpu(tmp_path / "address" / "emulator.so", FLAGS["address"], sources)
    done = call(path, "cuda_on_cpu_mistake(1)")
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert done.returncode != 0 and "it went on" not in done.stdout


def call(library: Path, function: str) -> subprocess.CompletedProcess[str]:
    """Call a function of a library under the sanitizer that its folder is named after."""
    command = [sys.executable, "-c", CALL, str(library), function]
    inside = environment(library.parent.name)
    return subprocess.run(command, cwd=ROOT, env=inside, capture_output=True, text=True)
