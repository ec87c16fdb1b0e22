"""The build's switches and messages, and what the built library asks of torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import setuptools

from awm_kernels._backend import BACKENDS, LIBRARY

ROOT = Path(__file__).parents[1]


def run_setup(
    *command: str, python: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python setup.py command` with exactly these switches set."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AWM_") and k != "CXX"}
    return subprocess.run(
        [python, "setup.py", *command],
        cwd=ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", ["AWM_CPU", "AWM_CUDA"])
def test_switches_are_checked(name: str) -> None:
    result = run_setup("--name", **{name: "maybe"})
    assert result.returncode != 0
    assert f"{name}: expected auto, on or off, got 'maybe'" in result.stderr
    assert "Traceback" not in result.stderr


def test_cuda_on_says_that_there_is_nothing_to_build() -> None:
    result = run_setup("--name", AWM_CUDA="on")
    assert result.returncode != 0
    assert "this version has no CUDA kernels" in result.stderr


def test_without_a_compiler_it_warns_or_fails() -> None:
    missing = "no-such-compiler"
    auto = run_setup("--name", CXX=missing)
    assert auto.returncode == 0
    assert "WARNING: no C++ compiler found" in auto.stderr
    forced = run_setup("--name", CXX=missing, AWM_CPU="on")
    assert forced.returncode != 0
    assert "AWM_CPU=on, but no C++ compiler found" in forced.stderr
    off = run_setup("--name", CXX=missing, AWM_CPU="off")
    assert off.returncode == 0
    assert "WARNING: no C++" not in off.stderr


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_without_torch_it_says_what_to_do(tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False)
    tools = tmp_path / "tools"  # setuptools, and nothing else of this environment
    tools.mkdir()
    for name in ("setuptools", "_distutils_hack"):
        (tools / name).symlink_to(Path(setuptools.__file__).parents[1] / name)
    result = run_setup(
        *("build_ext", f"--build-lib={tmp_path}", f"--build-temp={tmp_path}"),
        python=str(tmp_path / "env" / "bin" / "python"),
        PYTHONPATH=str(tools),
    )
    assert result.returncode != 0
    assert "torch was not found" in result.stderr
    assert "pip install --no-build-isolation -e ." in result.stderr
    assert "Traceback" not in result.stderr


def test_sources_use_only_stable_headers_of_torch() -> None:
    for path in (ROOT / "csrc").rglob("*"):
        if path.suffix in (".h", ".cpp"):
            for header in re.findall(r"#include <((?:torch|ATen|c10)/[^>]*)>", path.read_text()):
                assert header.startswith(("torch/csrc/stable/", "torch/headeronly/")), path


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
@pytest.mark.skipif(not LIBRARY.exists(), reason="the C++ CPU kernels are not built (AWM_CPU)")
def test_library_needs_only_the_stable_abi() -> None:
    command = ["nm", "-D", "--undefined-only", str(LIBRARY)]
    symbols = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "torch_parallel_for" in symbols
    # Any C++ symbol of torch, which would tie the library to one version of it.
    assert not re.findall(r"\b_ZN?K?\w*?(?:3c10|2at|5torch)\w*", symbols)


def test_diagnostics() -> None:
    command = [sys.executable, "-m", "awm_kernels"]
    found = json.loads(subprocess.check_output([*command, "--json"], cwd=ROOT, text=True))
    assert list(found["backends"]) == list(BACKENDS)
    text = subprocess.check_output(command, cwd=ROOT, text=True)
    for name, status in found["backends"].items():
        assert re.search(rf"^  {name} ", text, re.MULTILINE)
        assert status["available"] or (status["why"] in text and status["how"] in text)
