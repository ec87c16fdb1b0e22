"""Builds the C++ kernels with ninja; everything else about the package is in pyproject.toml.

Only torch's headers and the names of its libraries are needed, so torch is found but never
imported, and one build serves every torch from 2.11 on (LibTorch stable ABI).

Switches, as environment variables:
  AWM_CPU=auto|on|off   C++ CPU kernels. auto: if there is a compiler; on: fail without one.
  AWM_CUDA=auto|on|off  CUDA kernels. This version has none: on fails, auto builds nothing.
  AWM_MAX_JOBS=N        compilations at a time. Default: one a core, if memory allows.
  CXX                   the C++ compiler (C++20: GCC 11 or Clang 14, or newer).
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
OLDEST_TORCH = (2, 11)
TORCH_TARGET_VERSION = "0x020b000000000000"  # OLDEST_TORCH as torch's headers encode it
BYTES_A_JOB = 1 << 30
HOW_TO_INSTALL = (
    "Install torch 2.11 or newer first, then build against it:\n"
    "    pip install torch setuptools wheel ninja\n"
    "    pip install --no-build-isolation -e .\n"
    "or install without C++ kernels: AWM_CPU=off pip install ."
)

CXX_FLAGS = [
    "-std=c++20",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    # Lets square roots and comparisons vectorise. Results stay those of IEEE arithmetic, NaN
    # included, and with no contraction they are the same on every instruction set.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
]


class BuildError(SystemExit):
    """Ends the build with a message instead of a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(f"\nawm-kernels: {message}\n")


def switch(name: str) -> str:
    """The value of an environment switch: auto, on or off."""
    value = os.environ.get(name, "auto").lower()
    if value not in ("auto", "on", "off"):
        raise BuildError(f"{name}: expected auto, on or off, got {value!r}")
    return value


def find_compiler() -> str | None:
    """The C++ compiler command, or None. CXX counts only if it exists."""
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next((c for c in candidates if shutil.which(shlex.split(c)[0])), None)


def wanted_extensions() -> list[Extension]:
    """What is to be built, by the switches and by what this machine has."""
    if switch("AWM_CUDA") == "on":
        raise BuildError(
            "AWM_CUDA=on, but this version has no CUDA kernels to build. GPUs are served by the "
            "Triton kernels, which need no build. Leave AWM_CUDA unset."
        )
    cpu = switch("AWM_CPU")
    if cpu == "off":
        return []
    if find_compiler() is None:
        message = (
            f"no C++ compiler found (CXX={os.environ.get('CXX', 'unset')}; looked for c++, g++, "
            "clang++)."
        )
        if cpu == "on":
            raise BuildError(f"AWM_CPU=on, but {message} Install one, for instance g++.")
        print(
            f"awm-kernels: WARNING: {message} Installing in pure Python: every op works, through "
            "the slower PyTorch reference. For the C++ kernels install a compiler and run this "
            "installation again.",
            file=sys.stderr,
        )
        return []
    # Sources and commands are in the ninja file; these name what comes out, for setuptools.
    return [Extension("awm_kernels.lib.libawm_cpu", []), Extension("awm_kernels._build_info", [])]


def find_torch() -> tuple[Path, str]:
    """Folder and version of the torch to build against, without importing it.

    With build isolation, pip hides the environment that it installs into from imports, but the
    interpreter is still that environment's, and so are its site-packages folders.
    """
    spec = importlib.util.find_spec("torch")
    imported = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    installed = [Path(sysconfig.get_path(key), "torch") for key in ("platlib", "purelib")]
    for folder in imported + installed:
        if not (folder / "include" / "torch" / "csrc" / "stable").is_dir():
            continue
        text = (folder / "version.py").read_text()
        match = re.search(r"__version__ = '((\d+)\.(\d+)[^']*)'", text)
        if match and (int(match[2]), int(match[3])) >= OLDEST_TORCH:
            return folder, match[1]
        found = match[1] if match else "an unknown version"
        raise BuildError(
            f"torch is too old: expected 2.11 or newer, got {found} in {folder}.\n" + HOW_TO_INSTALL
        )
    raise BuildError(f"torch was not found by {sys.executable}.\n{HOW_TO_INSTALL}")


def find_ninja() -> str:
    """The ninja command: from its Python package, or on the path."""
    beside = shutil.which("ninja", path=str(Path(sys.executable).parent))
    found = beside or shutil.which("ninja")
    if found is None:
        raise BuildError("ninja was not found. Install it: pip install ninja")
    return found


def max_jobs() -> int:
    """How many compilations may run at a time."""
    asked = os.environ.get("AWM_MAX_JOBS")
    if asked is not None:
        if not asked.isdigit() or int(asked) < 1:
            raise BuildError(f"AWM_MAX_JOBS: expected a positive whole number, got {asked!r}")
        return int(asked)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(os.cpu_count() or 1, memory // BYTES_A_JOB))


def ninja_file(compiler: str, torch: Path, torch_version: str, module: str) -> str:
    """The ninja file that makes libawm_cpu.so and the Python module named `module`."""

    def quoted(text: str) -> str:
        return shlex.quote(text).replace("$", "$$")

    include = quoted(str(torch / "include"))
    flags = " ".join(CXX_FLAGS)
    info = " ".join(
        [
            f"-I{include}",
            f"-isystem {quoted(sysconfig.get_path('include'))}",
            quoted(f'-DAWM_FLAGS="{flags}"'),
            quoted(f'-DAWM_TORCH_VERSION="{torch_version}"'),
        ]
    )
    lines = [
        "ninja_required_version = 1.5",
        f"cxx = {compiler}",
        f"flags = {flags}",
        "rule compile",
        "  command = $cxx $flags $defines -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = $in",
        "rule link",
        "  command = $cxx -shared $in -o $out $libraries",
        "  description = $out",
    ]
    objects = []
    for path in sorted((ROOT / "csrc" / "cpu").glob("*.cpp")):
        objects.append(f"{path.stem}.o")
        lines += [
            f"build {path.stem}.o: compile {str(path).replace(' ', '$ ')}",
            f"  defines = -isystem {include} -DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
        ]
    source = str(ROOT / "csrc" / "build_info.cpp").replace(" ", "$ ")
    lines += [
        f"build libawm_cpu.so: link {' '.join(objects)}",
        f"  libraries = -L{quoted(str(torch / 'lib'))} -ltorch_cpu",
        f"build build_info.o: compile {source}",
        f"  defines = {info}",
        f"build {module}: link build_info.o",
    ]
    return "\n".join(lines) + "\n"


class NinjaBuild(build_ext):
    """build_ext that leaves the compiling to ninja, in build/, where it is incremental."""

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.endswith("libawm_cpu"):  # a torch library, not a Python module: plain suffix
            return str(Path(*fullname.split(".")).with_suffix(".so"))
        return str(super().get_ext_filename(fullname))

    def build_extensions(self) -> None:
        compiler = find_compiler()
        assert compiler is not None  # or there would be no extensions
        torch, version = find_torch()
        ninja = find_ninja()
        folder = ROOT / "build" / f"ninja-{sys.implementation.cache_tag}"
        folder.mkdir(parents=True, exist_ok=True)
        module = Path(self.get_ext_filename("_build_info")).name
        (folder / "build.ninja").write_text(ninja_file(compiler, torch, version, module))
        result = subprocess.run([ninja, "-C", str(folder), "-j", str(max_jobs())])
        if result.returncode != 0:
            raise BuildError(
                "the C++ kernels did not compile; the compiler's messages are above. They need "
                f"C++20 (GCC 11 or Clang 14, or newer); this is {compiler}. To install without "
                "them: AWM_CPU=off pip install ."
            )
        for ext in self.extensions:
            target = Path(self.get_ext_fullpath(ext.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / target.name, target)

    def copy_extensions_to_source(self) -> None:
        # setuptools expects the folders of extensions to be there: lib/ holds nothing else.
        (ROOT / "awm_kernels" / "lib").mkdir(exist_ok=True)
        super().copy_extensions_to_source()


setup(
    packages=[*find_packages(include=["awm_kernels*"]), *find_packages("python")],
    package_dir={"awm_defense": "python/awm_defense"},
    package_data={"awm_kernels": ["py.typed"], "awm_defense": ["py.typed"]},
    ext_modules=wanted_extensions(),
    cmdclass={"build_ext": NinjaBuild},
)
