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
import setuptools  # type: ignore[import-untyped]

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


def test_without_a_toolkit_it_goes_on_or_fails(tmp_path: Path) -> None:
    why = "no CUDA toolkit found (a folder that holds bin/nvcc, include and nvvm) in"
    auto = run_setup("--name", CUDA_HOME=str(tmp_path))
    assert auto.returncode == 0
    assert f"without CUDA kernels: {why} {tmp_path}" in auto.stderr
    forced = run_setup("--name", AWM_CUDA="on", CUDA_HOME=str(tmp_path))
    assert forced.returncode != 0
    assert f"AWM_CUDA=on, but {why} {tmp_path}" in forced.stderr
    off = run_setup("--name", AWM_CUDA="off", CUDA_HOME=str(tmp_path))
    assert off.returncode == 0
    assert why not in off.stderr


def fake_toolkit(home: Path, version: str) -> Path:
    """A folder that looks like a CUDA toolkit, whose nvcc only answers questions."""
    for part in ("bin", "include", "nvvm"):
        (home / part).mkdir(parents=True)
    (home / "include" / "cuda_runtime.h").touch()
    nvcc = home / "bin" / "nvcc"
    nvcc.write_text(f'#!/bin/sh\necho "release {version}"\necho "#$ TOP={home}/bin/.." >&2\n')
    nvcc.chmod(0o755)
    return home


def test_toolkit_of_a_wrapped_nvcc_is_found(tmp_path: Path) -> None:
    home = fake_toolkit(tmp_path / "toolkit", "11.8")
    wrapper = tmp_path / "bin" / "nvcc"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {home}/bin/nvcc "$@"\n')
    wrapper.chmod(0o755)
    path = f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}"
    result = run_setup("--name", AWM_CUDA="on", CUDA_HOME="", PATH=path)
    assert result.returncode != 0
    assert f"the CUDA toolkit in {home} is too old: expected 12.0, got 11.8" in result.stderr


def test_toolkit_of_another_version_than_torchs_is_found_before_compiling(tmp_path: Path) -> None:
    torch = tmp_path / "torch"
    (torch / "include" / "torch" / "csrc" / "stable").mkdir(parents=True)
    (torch / "__init__.py").touch()
    (torch / "version.py").write_text("__version__ = '2.14.1'\ncuda: Optional[str] = '13.0'\n")
    home = fake_toolkit(tmp_path / "toolkit", "12.4")
    result = run_setup(
        *("build_ext", f"--build-lib={tmp_path}", f"--build-temp={tmp_path}"),
        AWM_CUDA="on",
        CUDA_HOME=str(home),
        PYTHONPATH=str(tmp_path),
    )
    assert result.returncode != 0
    assert f"the CUDA toolkit in {home} is version 12.4, but the torch in {torch}" in result.stderr
    assert "was built with CUDA 13.0" in result.stderr
    assert "ninja" not in result.stdout


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


STABLE_HEADERS = (
    "torch/csrc/stable/",
    "torch/headeronly/",
    "torch/csrc/inductor/aoti_torch/c/",  # C functions
)


def test_sources_use_only_stable_headers_of_torch() -> None:
    for path in (ROOT / "csrc").rglob("*"):
        if path.suffix in (".h", ".cpp", ".cu"):
            for header in re.findall(r"#include <((?:torch|ATen|c10)/[^>]*)>", path.read_text()):
                assert header.startswith(STABLE_HEADERS), path


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
@pytest.mark.skipif(not LIBRARY.exists(), reason="the C++ CPU kernels are not built (AWM_CPU)")
def test_library_needs_only_the_stable_abi() -> None:
    command = ["nm", "-D", "--undefined-only", str(LIBRARY)]
    symbols = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "torch_parallel_for" in symbols
    # Any C++ symbol of torch, which would tie the library to one version of it.
    assert not re.findall(r"\b_ZN?K?\w*?(?:3c10|2at|5torch)\w*", symbols)


@pytest.mark.slow
def test_diagnostics() -> None:
    command = [sys.executable, "-m", "awm_kernels"]
    found = json.loads(subprocess.check_output([*command, "--json"], cwd=ROOT, text=True))
    assert list(found["backends"]) == list(BACKENDS)
    text = subprocess.check_output(command, cwd=ROOT, text=True)
    for name, status in found["backends"].items():
        assert re.search(rf"^  {name} ", text, re.MULTILINE)
        assert status["available"] or (status["why"] in text and status["how"] in text)
