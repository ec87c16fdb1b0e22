"""Builds the C++ and CUDA kernels with ninja; the rest of the package is in pyproject.toml.

Only torch's headers and the names of its libraries are needed, so torch is found but never
imported, and one build serves every torch from 2.11 on (LibTorch stable ABI).

Switches, as environment variables:
  AWM_CPU=auto|on|off   C++ CPU kernels. auto: if there is a compiler; on: fail without one.
  AWM_CUDA=auto|on|off  CUDA kernels. auto: if there is a CUDA toolkit; on: fail without one. No
                        GPU is needed, and they build against a CPU torch too.
  CUDA_HOME             the CUDA toolkit (12.0 or newer). Default: that of the nvcc on the path, or
                        the newest in /usr/local.
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
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

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

OLDEST_CUDA = (12, 0)
# Machine code for A100 and H100 (with their families), and PTX that drivers turn into code for
# whatever is newer.
CUDA_TARGETS = {
    "sm_80": "arch=compute_80,code=sm_80",
    "sm_90a": "arch=compute_90a,code=sm_90a",
    "PTX of compute_90": "arch=compute_90,code=compute_90",
}
NVCC_FLAGS = [
    "-std=c++20",
    "-O3",
    # No contraction, as on the CPU: the elementwise kernels then give the CPU's bits. They wait for
    # memory, so it costs nothing.
    "--fmad=false",
    "-Xcompiler=-fPIC,-fvisibility=hidden",
    "-Xptxas=-v",
    *(f"-gencode={target}" for target in CUDA_TARGETS.values()),
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


class Toolkit(NamedTuple):
    """A CUDA toolkit: where bin, include and nvvm lie side by side."""

    home: Path
    version: str

    @property
    def libraries(self) -> Path:
        folders = [self.home / name for name in ("lib64", "lib", "targets/x86_64-linux/lib")]
        return next((f for f in folders if (f / "libcudart_static.a").exists()), folders[0])


def toolkit_homes() -> list[Path]:
    """Where a CUDA toolkit may be, best first. CUDA_HOME, if set, is the only place."""
    if os.environ.get("CUDA_HOME"):
        return [Path(os.environ["CUDA_HOME"])]
    homes = []
    nvcc = shutil.which("nvcc")
    if nvcc is not None:
        # It may be a link or a script that calls another, so it is asked.
        command = [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull]
        output = subprocess.run(command, capture_output=True, text=True).stderr
        homes += [
            Path(top).resolve() for top in re.findall(r"^#\$ TOP=(.*)$", output, re.MULTILINE)
        ]
    local = Path("/usr/local")
    versions = {p: re.findall(r"\d+", p.name) for p in local.glob("cuda-*")}
    newest = sorted(versions, key=lambda p: [int(n) for n in versions[p]], reverse=True)
    return [*homes, local / "cuda", *newest]


def find_toolkit() -> Toolkit | str:
    """The CUDA toolkit, or why there is none."""
    homes = toolkit_homes()
    for home in homes:
        if not all(
            (home / part).exists() for part in ("bin/nvcc", "include/cuda_runtime.h", "nvvm")
        ):
            continue
        command = [str(home / "bin" / "nvcc"), "--version"]
        output = subprocess.run(command, capture_output=True, text=True).stdout
        match = re.search(r"release (\d+)\.(\d+)", output)
        if match is None:
            return f"{command[0]} --version names no release"
        if (int(match[1]), int(match[2])) < OLDEST_CUDA:
            return (
                f"the CUDA toolkit in {home} is too old: expected 12.0, got {match[1]}.{match[2]}"
            )
        return Toolkit(home, f"{match[1]}.{match[2]}")
    looked = ", ".join(map(str, homes))
    return f"no CUDA toolkit found (a folder that holds bin/nvcc, include and nvvm) in {looked}"


def wanted_extensions() -> list[Extension]:
    """What is to be built, by the switches and by what this machine has.

    Sources and commands are in the ninja file; these name what comes out, for setuptools.
    """
    cpu, cuda = wants_cpu(), switch("AWM_CUDA")
    names = ["awm_kernels.lib.libawm_cpu"] if cpu else []
    if cuda == "on" or (cuda == "auto" and cpu):
        toolkit = find_toolkit()
        if isinstance(toolkit, Toolkit):
            names.append("awm_kernels.lib.libawm_cuda")
        elif cuda == "on":
            raise BuildError(
                f"AWM_CUDA=on, but {toolkit}. Install one, or set CUDA_HOME to where it is."
            )
        else:
            print(f"awm-kernels: without CUDA kernels: {toolkit}.", file=sys.stderr)
    if cuda == "on" and find_compiler() is None:
        raise BuildError("AWM_CUDA=on, but nvcc needs a C++ compiler too. Install one, as g++.")
    return [
        Extension(name, []) for name in [*names, *(["awm_kernels._build_info"] if names else [])]
    ]


def wants_cpu() -> bool:
    """Whether the C++ CPU kernels are to be built."""
    cpu = switch("AWM_CPU")
    if cpu == "off":
        return False
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
        return False
    return True


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


def torch_cuda_version(torch: Path) -> str | None:
    """The CUDA version that this torch was built with; None for a CPU torch."""
    match = re.search(
        r"^cuda\b[^=\n]*= '([\d.]+)'", (torch / "version.py").read_text(), re.MULTILINE
    )
    return match[1] if match else None


def cuda_mismatch(torch: Path, toolkit: Toolkit) -> str | None:
    """Why this toolkit can't build for this torch, if so: their major versions must be the same."""
    wanted = torch_cuda_version(torch)
    if wanted is None or wanted.split(".")[0] == toolkit.version.split(".")[0]:
        return None
    return (
        f"the CUDA toolkit in {toolkit.home} is version {toolkit.version}, but the torch in "
        f"{torch} was built with CUDA {wanted}; the major versions must be the same. Set CUDA_HOME "
        f"to a toolkit of version {wanted.split('.')[0]}"
    )


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


def quoted(text: str) -> str:
    """`text` as one word of a command in a ninja file."""
    return shlex.quote(text).replace("$", "$$")


def ninja_path(path: Path) -> str:
    """`path` as an input in a ninja file."""
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def cuda_rules(compiler: str, torch: Path, toolkit: Toolkit) -> list[str]:
    """The lines of the ninja file that make libawm_cuda.so."""
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    host = quoted(shlex.split(compiler)[0])
    nvcc = quoted(str(toolkit.home / "bin" / "nvcc"))
    threads = max(1, min(len(CUDA_TARGETS), max_jobs() // len(sources)))
    # A CPU torch lacks the CUDA functions that the library calls; a CUDA torch, where alone it is
    # loaded, brings them with libtorch.so.
    libraries = f"-L{quoted(str(torch / 'lib'))} -Wl,--no-as-needed -ltorch -ltorch_cpu -lc10"
    cudart = f"-L{quoted(str(toolkit.libraries))} -lcudart_static -ldl -lrt -lpthread"
    include = f"-isystem {quoted(str(torch / 'include'))}"
    defines = f"{include} -DUSE_CUDA -DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"
    lines = [
        # What ptxas says of registers and spills is kept, not printed.
        "rule compile_cuda",
        f"  command = {nvcc} -ccbin {host} --threads {threads} {' '.join(NVCC_FLAGS)} {defines} "
        "-MD -MF $out.d -c $in -o $out > $out.log 2>&1 || (cat $out.log; exit 1)",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = $in",
    ]
    for path in sources:
        lines.append(f"build {path.stem}.cu.o: compile_cuda {ninja_path(path)}")
    return [
        *lines,
        f"build libawm_cuda.so: link {' '.join(f'{path.stem}.cu.o' for path in sources)}",
        f"  libraries = {libraries} {cudart}",
    ]


def demangled(name: str) -> str:
    """A kernel's name without namespaces, with its template arguments where c++filt is there."""
    if shutil.which("c++filt"):
        name = subprocess.run(["c++filt", name], capture_output=True, text=True).stdout.strip()
    name = re.sub(r"^void |\(anonymous namespace\)::|awm::cuda::", "", name)
    return re.sub(r"\((\w+)\)(\d+)", r"\1 \2", name).split("(")[0]


def resource_table(folder: Path) -> str:
    """Registers, shared memory and spilled bytes of each CUDA kernel, as ptxas reported them."""
    lines = [f"{'kernel':50} {'for':>8} {'registers':>9} {'shared':>8} {'spilled':>8}"]
    for source in sorted((ROOT / "csrc" / "cuda").glob("*.cu")):
        log = folder / f"{source.name}.o.log"
        for entry in log.read_text().split("Compiling entry function '")[1:]:
            found = re.match(
                r"(\w+)' for '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
                r"(\d+) bytes spill loads.*?Used (\d+) registers([^\n]*)",
                entry,
                re.DOTALL,
            )
            if found is None:
                raise BuildError(f"{log}: ptxas's report has an unknown form")
            name, arch, *spilled, registers, rest = found.groups()
            shared = re.search(r"(\d+) bytes smem", rest)
            lines.append(
                f"{demangled(name):50} {arch:>8} {registers:>9} {shared[1] if shared else 0:>8} "
                f"{max(map(int, spilled)):>8}"
            )
    return "\n".join(lines) + "\n"


def ninja_file(
    compiler: str, torch: Path, torch_version: str, module: str, toolkit: Toolkit | None
) -> str:
    """The ninja file for libawm_cpu.so, libawm_cuda.so (given a toolkit) and Python's `module`."""
    include = quoted(str(torch / "include"))
    archs = ", ".join(f'"{name}"' for name in CUDA_TARGETS) if toolkit else ""
    flags = " ".join(CXX_FLAGS)
    info = " ".join(
        [
            f"-I{include}",
            f"-isystem {quoted(sysconfig.get_path('include'))}",
            quoted(f'-DAWM_FLAGS="{flags}"'),
            quoted(f'-DAWM_TORCH_VERSION="{torch_version}"'),
            quoted(f"-DAWM_CUDA_ARCHS={archs}"),
            quoted(f'-DAWM_CUDA_VERSION="{toolkit.version if toolkit else ""}"'),
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
            f"build {path.stem}.o: compile {ninja_path(path)}",
            f"  defines = -isystem {include} -DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
        ]
    source = ninja_path(ROOT / "csrc" / "build_info.cpp")
    lines += [
        f"build libawm_cpu.so: link {' '.join(objects)}",
        f"  libraries = -L{quoted(str(torch / 'lib'))} -ltorch_cpu",
        f"build build_info.o: compile {source}",
        f"  defines = {info}",
        f"build {module}: link build_info.o",
        *(cuda_rules(compiler, torch, toolkit) if toolkit else []),
    ]
    return "\n".join(lines) + "\n"


class NinjaBuild(build_ext):
    """build_ext that leaves the compiling to ninja, in build/, where it is incremental."""

    def get_ext_filename(self, fullname: str) -> str:
        # A torch library is no Python module: it has the plain suffix.
        if fullname.rpartition(".")[2].startswith("libawm_"):
            return str(Path(*fullname.split(".")).with_suffix(".so"))
        return str(super().get_ext_filename(fullname))

    def build_extensions(self) -> None:
        compiler = find_compiler()
        assert compiler is not None  # or there would be no extensions
        torch, version = find_torch()
        ninja = find_ninja()
        folder = ROOT / "build" / f"ninja-{sys.implementation.cache_tag}"
        folder.mkdir(parents=True, exist_ok=True)
        files = {ext.name: Path(self.get_ext_filename(ext.name)).name for ext in self.extensions}

        def build(toolkit: Toolkit | None, *targets: str) -> bool:
            module = files["awm_kernels._build_info"]
            text = ninja_file(compiler, torch, version, module, toolkit)
            (folder / "build.ninja").write_text(text)
            command = [ninja, "-C", str(folder), "-j", str(max_jobs()), *targets]
            return subprocess.run(command).returncode == 0

        toolkit = None
        if "awm_kernels.lib.libawm_cuda" in files:
            toolkit = self.build_cuda(folder, torch, build)
            if toolkit is None:
                files.pop("awm_kernels.lib.libawm_cuda")
                self.extensions = [ext for ext in self.extensions if ext.name in files]
        if not build(toolkit, *files.values()):
            raise BuildError(
                "the C++ kernels did not compile; the compiler's messages are above. They need "
                f"C++20 (GCC 11 or Clang 14, or newer); this is {compiler}. To install without "
                "them: AWM_CPU=off pip install ."
            )
        for ext in self.extensions:
            target = Path(self.get_ext_fullpath(ext.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / target.name, target)

    def build_cuda(self, folder: Path, torch: Path, build: Callable[..., bool]) -> Toolkit | None:
        """Build libawm_cuda.so; with AWM_CUDA=auto, None if it can't be built."""
        toolkit = find_toolkit()
        assert isinstance(toolkit, Toolkit)  # or there would be no such extension
        why = cuda_mismatch(torch, toolkit)
        if why is None and not build(toolkit, "libawm_cuda.so"):
            why = f"the CUDA kernels did not compile with {toolkit.home}; nvcc's messages are above"
        if why is None:
            table = resource_table(folder)
            print(table)
            (folder / "cuda_resources.txt").write_text(table)
            return toolkit
        if switch("AWM_CUDA") == "on":
            raise BuildError(f"AWM_CUDA=on, but {why}.")
        print(f"awm-kernels: WARNING: without CUDA kernels: {why}.", file=sys.stderr)
        return None

    def copy_extensions_to_source(self) -> None:
        # setuptools expects the folders of extensions to be there: lib/ holds nothing else.
        (ROOT / "awm_kernels" / "lib").mkdir(exist_ok=True)
        super().copy_extensions_to_source()


setup(
    packages=[*find_packages(include=["awm_kernels*"]), *find_packages("python")],
    package_dir={"awm_defense": "python/awm_defense"},
    package_data={"awm_kernels": ["py.typed"], "awm_defense": ["py.typed", "reproduce/paper.json"]},
    ext_modules=wanted_extensions(),
    cmdclass={"build_ext": NinjaBuild},
)
