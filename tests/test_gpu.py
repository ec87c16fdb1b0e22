"""Every op on every device and backend: accuracy, layouts, streams, graphs, sizes.

The same tests run on CPU tensors in an ordinary test run (so that they can't rot where there is no
GPU) and on CUDA tensors with `pytest -m gpu`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from awm_defense import get_recipe, purify
from awm_kernels import backends, conv_choices
from tests import device_cases as cases
from tests.accuracy import assert_accurate
from tests.device_cases import CASES, EMPTY, Case

FLOAT, HALF = torch.float32, torch.bfloat16
ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CPU_PLACES = [("cpu", "reference"), ("cpu", "cpu"), ("cpu", "triton")]
GPU_PLACES = [("cuda", "cuda"), ("cuda", "triton"), ("cuda", "auto")]
PLACES = [*CPU_PLACES, *(pytest.param(*place, marks=ON_GPU) for place in GPU_PLACES)]
DEVICES = ["cpu", pytest.param("cuda", marks=ON_GPU)]
every_place = pytest.mark.parametrize(("device", "backend"), PLACES)
every_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(autouse=True)
def _fair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips backends that aren't there; the same inputs every time; no tf32 unless asked for."""
    parameters = getattr(request.node, "callspec", None)
    backend = parameters.params.get("backend", "auto") if parameters else "auto"
    if backend != "auto" and not backends()[backend].available:
        pytest.skip(f"backend {backend}: {backends()[backend].why}")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    torch.manual_seed(0)


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Memory that nothing has written yet is NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def tf32(_fair: None) -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32, cudnn.allow_tf32 = True, True
    yield
    matmul.allow_tf32, cudnn.allow_tf32 = before


def check(case: Case, inputs: cases.Inputs, backend: str, factor: float = 2) -> list[Tensor]:
    exact = case.run(cases.doubled(inputs), "reference")
    same = case.run(inputs, "reference")
    actual = case.run(inputs, backend)
    for ours, theirs, truth in zip(actual, same, exact, strict=True):
        assert_accurate(ours, theirs, truth, factor)
    return actual


def test_the_measure_can_fail() -> None:
    exact = torch.ones(3, dtype=torch.float64)
    same = exact.float() + 1e-6
    assert_accurate(exact.float() + 2e-6, same, exact)
    for wrong in (exact.float() + 4e-6, torch.tensor([1.0, 1.0, float("nan")])):
        with pytest.raises(AssertionError):
            assert_accurate(wrong, same, exact)


@every_place
@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=str)
@every_case
def test_error_at_most_twice_pytorchs(
    name: str, dtype: torch.dtype, device: str, backend: str, poisoned: None
) -> None:
    check(CASES[name], cases.on(CASES[name].make(), device, dtype), backend)


@every_place
@pytest.mark.parametrize("layout", [cases.strided, cases.channels_last])
@every_case
def test_layouts(name: str, layout: object, device: str, backend: str, poisoned: None) -> None:
    inputs = cases.on(CASES[name].make(), device, FLOAT)
    assert callable(layout)
    check(CASES[name], layout(inputs), backend)


@every_place
@pytest.mark.parametrize("name", [name for name in CASES if "conv" in name])
def test_convolutions_in_channels_last_bfloat16(name: str, device: str, backend: str) -> None:
    """As above, but not deterministic: on a GPU, tiles and kernels are chosen by measurement."""
    inputs = cases.on(CASES[name].make(), device, HALF)
    check(CASES[name], cases.channels_last(inputs), backend)
    if backend == "auto":
        assert conv_choices()


@every_place
@pytest.mark.parametrize("name", [name for name in CASES if "conv" in name or "linear" in name])
def test_tf32(name: str, device: str, backend: str, tf32: None) -> None:
    """Operands of 10 bits of mantissa, cut off or rounded: the library does either."""
    case, inputs = CASES[name], cases.on(CASES[name].make(), device, FLOAT)
    inputs = cases.channels_last(inputs)
    for ours, truth in zip(
        case.run(inputs, backend), case.run(cases.doubled(inputs), "reference"), strict=True
    ):
        torch.testing.assert_close(
            ours.double(), truth, rtol=0, atol=4e-3 * float(truth.abs().max())
        )


@every_place
@every_case
def test_same_input_same_bits(name: str, device: str, backend: str) -> None:
    inputs = cases.on(CASES[name].make(), device, FLOAT)
    first = CASES[name].run(inputs, backend)
    for _ in range(2):
        for a, b in zip(first, CASES[name].run(inputs, backend), strict=True):
            assert torch.equal(a, b)


@every_place
@pytest.mark.parametrize("name", EMPTY)
def test_empty(name: str, device: str, backend: str) -> None:
    inputs = cases.on(EMPTY[name].make(), device, FLOAT)
    expected = EMPTY[name].run(inputs, "reference")
    for ours, theirs in zip(EMPTY[name].run(inputs, backend), expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("device", "backend"), [pytest.param(*place, marks=ON_GPU) for place in GPU_PLACES]
)
@every_case
def test_on_another_stream(name: str, device: str, backend: str) -> None:
    inputs = cases.on(CASES[name].make(), device, FLOAT)
    expected = CASES[name].run(inputs, backend)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = {n: v.clone() if v.is_floating_point() else v for n, v in inputs.items()}
        # Work that a kernel on the wrong stream would overtake: its inputs aren't there yet.
        for value in late.values():
            if value.is_floating_point():
                value.zero_()
        torch.cuda._sleep(20_000_000)
        for key, value in late.items():
            value.copy_(inputs[key])
        got = CASES[name].run(late, backend)
    stream.synchronize()
    for a, b in zip(expected, got, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("device", "backend"), [pytest.param(*place, marks=ON_GPU) for place in GPU_PLACES]
)
@every_case
def test_cuda_graph(name: str, device: str, backend: str) -> None:
    inputs = cases.on(CASES[name].make(), device, FLOAT)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles, and measures what is chosen by measurement
        expected = CASES[name].run(inputs, backend)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = CASES[name].run(inputs, backend)
    replays = []
    for _ in range(2):
        for value in captured:
            value.fill_(float("nan"))
        graph.replay()
        replays.append([value.clone() for value in captured])
    for a, b, c in zip(*replays, expected, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def needs_memory(device: str, size: int) -> None:
    if device == "cuda" and torch.cuda.mem_get_info()[0] < size:
        pytest.skip(f"needs {size >> 30} GiB of free GPU memory")


def beyond_32_bits(device: str, row: int) -> int:
    """A number of rows with more than 2³¹ elements in all; few on a CPU, which needs no proof."""
    return (2**31 // row + 3) if device == "cuda" else 5


@every_place
def test_huge_weight(device: str, backend: str) -> None:
    needs_memory(device, 30 << 30)
    row = 4099
    rows = beyond_32_bits(device, row)
    theta = torch.empty(rows, row, dtype=HALF, device=device).uniform_(1, 2)
    mask = torch.empty_like(theta).uniform_(0, 1)
    case = cases.weight_case(1, 1)
    scale = torch.ones(rows, device=device)
    got = case.run({"theta": theta, "mask": mask, "scale_wide": scale}, backend)[0]
    for part in (slice(0, 2), slice(rows // 2, rows // 2 + 2), slice(rows - 2, rows)):
        assert torch.equal(got[part], theta[part] * mask[part])


@every_place
def test_huge_perturb(device: str, backend: str) -> None:
    needs_memory(device, 30 << 30)
    images = beyond_32_bits(device, 3072)
    x = torch.empty(images, 3, 32, 32, dtype=HALF, device=device).uniform_(0, 1)
    delta = torch.full((3, 32, 32), 0.25, device=device)
    inputs = {"x": x, "delta_wide": delta, "grad": torch.ones_like(x)}
    y, grad_x, grad_delta = cases.perturb_case(1, 1, True).run(inputs, backend)
    for part in (slice(0, 2), slice(images - 2, images)):
        expected = (x[part].float() + 0.25).clamp(0, 1).to(HALF)
        assert torch.equal(y[part], expected)
        assert torch.equal(grad_x[part], (x[part].float() + 0.25 <= 1).to(HALF))
    passed = grad_x.sum(dim=0, dtype=torch.float64)
    torch.testing.assert_close(grad_delta.double(), passed, rtol=1e-5, atol=1e-3)


@every_place
def test_huge_batch_of_a_convolution(device: str, backend: str) -> None:
    needs_memory(device, 40 << 30)
    case = cases.conv_case(1, 64, 64, 16, 3)
    images = beyond_32_bits(device, 64 * 16 * 16)
    inputs = cases.channels_last(cases.on(case.make(), device, HALF))
    one, grad = inputs["x"], inputs["grad"]
    inputs["x"] = torch.empty(
        (images, 64, 16, 16), dtype=HALF, device=device, memory_format=torch.channels_last
    )
    inputs["x"].copy_(one.expand(images, -1, -1, -1))
    inputs["grad"] = torch.zeros_like(inputs["x"])
    inputs["grad"][-1] = grad[0]
    y, grad_x, grad_mask = case.run(inputs, backend)
    few = {**inputs, "x": one, "grad": grad}
    expected = case.run(few, "reference")
    torch.testing.assert_close(y[-1:], expected[0], rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(y[:1], y[-1:], rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(grad_x[-1:], expected[1], rtol=2e-2, atol=2e-2)
    assert not grad_x[0].any()
    largest = float(expected[2].abs().max())
    torch.testing.assert_close(grad_mask, expected[2], rtol=2e-2, atol=1e-2 * largest)


def tiny_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    ).eval()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["official", "default"])
def test_purify_equals_that_on_a_cpu(name: str, device: str) -> None:
    """One pass of gradient descent: before Adam's division amplifies rounding."""
    torch.manual_seed(0)
    model, images = tiny_network(), torch.rand(8, 3, 12, 12)
    labels = torch.arange(8) % 4
    settings = {"epochs": "1", "inner_epochs": "1", "mask_optimizer": "sgd", "mask_lr": "1"}
    settings["natural_step"] = "none"
    recipe = get_recipe(name).with_options(settings)
    expected = purify(model, images, labels, recipe=recipe, seed=0)
    there = (model.to(device), images.to(device), labels.to(device))
    got = purify(*there, recipe=recipe, seed=0)
    assert got.trigger is not None and expected.trigger is not None
    assert got.trigger.device.type == device
    torch.testing.assert_close(got.trigger.cpu(), expected.trigger, rtol=1e-3, atol=1e-3)
    for key, mask in expected.masks.items():
        torch.testing.assert_close(got.masks[key].cpu(), mask, rtol=1e-3, atol=1e-3)
