"""The compiled CUDA library, without a GPU, and what the cuda backend says where it is missing."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode

from awm_kernels import _backend, choose
from awm_kernels._backend import CUDA_LIBRARY, BackendStatus

KERNELS = (
    "masked_weight_out",
    "mask_step_",
    "l1_rescale_",
    "l1_project_",
    "perturb_out",
    "perturb_backward_out",
    "trigger_step_",
)
needs_library = pytest.mark.skipif(
    not CUDA_LIBRARY.exists(), reason="the CUDA kernels are not built (AWM_CUDA)"
)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Statuses that are worked out anew, and forgotten afterwards."""
    caches = (_backend._cuda_status, _backend._device_misfit)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@needs_library
@pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch")
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_registered_for_cuda(name: str) -> None:
    torch.ops.load_library(str(CUDA_LIBRARY))
    full_name = f"awm_kernels_compiled::{name}"
    assert torch._C._dispatch_has_kernel_for_dispatch_key(full_name, "CUDA")


@needs_library
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_library_needs_only_the_stable_abi() -> None:
    command = ["nm", "-D", "--undefined-only", str(CUDA_LIBRARY)]
    symbols = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "aoti_torch_get_current_cuda_stream" in symbols
    assert not re.findall(r"\b_ZN?K?\w*?(?:3c10|2at|5torch)\w*", symbols)
    assert "libcudart" not in subprocess.check_output(["readelf", "-d", CUDA_LIBRARY], text=True)


@needs_library
def test_build_information_names_architectures_and_toolkit() -> None:
    info = import_module("awm_kernels._build_info")
    assert info.cuda_archs() == ["sm_80", "sm_90a", "PTX of compute_90"]
    assert re.fullmatch(r"\d+\.\d+", info.cuda_toolkit())


def test_a_missing_library_explains_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_backend, "CUDA_LIBRARY", tmp_path / "libawm_cuda.so")
    with pytest.raises(
        RuntimeError, match=r"libawm_cuda.so was not built.*AWM_CUDA=on pip install"
    ):
        choose("cuda", torch.zeros(1))


def test_a_cpu_torch_explains_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = tmp_path / "libawm_cuda.so"
    library.touch()
    monkeypatch.setattr(_backend, "CUDA_LIBRARY", library)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(RuntimeError, match=r"is a CPU build. To get it: install a CUDA build"):
        choose("cuda", torch.zeros(1))


def test_a_library_that_does_not_load_explains_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = tmp_path / "libawm_cuda.so"
    library.touch()
    monkeypatch.setattr(_backend, "CUDA_LIBRARY", library)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(RuntimeError, match=r"libawm_cuda.so does not load: .*To get it"):
        choose("cuda", torch.zeros(1))


def play_gpus(monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int]) -> None:
    monkeypatch.setattr(_backend, "CUDA_LIBRARY", Path(__file__))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a GPU")


def test_an_old_gpu_explains_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    play_gpus(monkeypatch, (7, 5))
    assert _backend._cuda_status() == BackendStatus(
        False,
        "it takes GPUs from sm_80 on, a GPU is sm_75",
        "use a newer GPU, or triton on this one",
    )


def test_auto_prefers_cuda_where_op_and_gpu_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    play_gpus(monkeypatch, (9, 0), (7, 5), (12, 0))
    monkeypatch.setitem(_backend._STATUS, "triton", lambda: BackendStatus(True, "", ""))
    with FakeTensorMode():
        on = [torch.empty(1, device=f"cuda:{index}") for index in range(3)]
        half = torch.empty(1, device="cuda:0", dtype=torch.float16)
    assert [choose("auto", t, op="perturb") for t in on] == ["cuda", "triton", "cuda"]
    assert choose("auto", on[0]) == "triton"
    assert choose("auto", half, op="perturb") == "reference"
    assert choose("cuda", on[0]) == "cuda"
    with pytest.raises(ValueError, match=r"'cuda' can't run this call: it takes GPUs from sm_80"):
        choose("cuda", on[1])
