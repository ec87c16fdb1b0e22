"""Checkpoints of every form that people save, broken ones, and hostile ones."""

from __future__ import annotations

import copy
import functools
import math
import os
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from awm_defense.files.checkpoint import load_into, load_saved, load_state_dict, save_model
from awm_defense.files.torch_file import Other
from tests.hostile import pickling

DTYPES = [
    *(torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16),
    *(torch.int8, torch.uint8, torch.bool, torch.complex64),
]
NEW_DTYPES = [torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64]


def make_model(outputs: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, outputs))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
@pytest.mark.parametrize("nest", [(), ("net",), ("model",), ("state_dict",), ("model", "net")])
def test_torch_files(tmp_path: Path, nest: tuple[str, ...], prefix: str) -> None:
    state = make_model().state_dict()
    content: object = OrderedDict((prefix + name, value) for name, value in state.items())
    for key in reversed(nest):
        content = {key: content, "acc": 84.4, "epoch": 3}
    torch.save(content, tmp_path / "net.pth")
    assert same(load_state_dict(tmp_path / "net.pth"), state)


def test_old_torch_format(tmp_path: Path) -> None:
    state = make_model().state_dict()
    torch.save(state, tmp_path / "net.pt", _use_new_zipfile_serialization=False)
    assert same(load_state_dict(tmp_path / "net.pt"), state)


def test_a_submodule_called_module_keeps_its_name(tmp_path: Path) -> None:
    state = {"module.weight": torch.ones(1), "head.weight": torch.ones(1)}
    save_model(tmp_path / "net.safetensors", state)
    assert set(load_state_dict(tmp_path / "net.safetensors")) == set(state)


def test_safetensors_round_trip(tmp_path: Path) -> None:
    model = make_model()
    save_model(tmp_path / "net.safetensors", model)
    other = make_model()
    load_into(other, load_state_dict(tmp_path / "net.safetensors"))
    assert same(other.state_dict(), model.state_dict())


def test_saves_shared_and_strided_tensors(tmp_path: Path) -> None:
    weight = torch.rand(4, 3, 3, 3)
    state = {
        "strided": weight.to(memory_format=torch.channels_last),
        "shared": weight,
        "part": weight[:2],
        "expanded": torch.ones(1).expand(5),
        "parameter": nn.Parameter(weight),
    }
    save_model(tmp_path / "net.safetensors", state)
    assert same(load_state_dict(tmp_path / "net.safetensors"), state)


class Harm:
    """Unpickled without care, this makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("nest", [True, False])
def test_runs_no_code_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nest: bool, new_format: bool
) -> None:
    # Even where someone has switched PyTorch's own protection off.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    harm = Harm(tmp_path / "harm")
    content = {"net": make_model().state_dict(), "acc": harm} if nest else harm
    path = tmp_path / "net.pth"
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(ValueError, match=r"net\.pth: can't be read as weights alone"):
        load_state_dict(path)
    assert not (tmp_path / "harm").exists()
    # The file does harm where nobody is careful, so the test above proves something.
    torch.load(path, weights_only=False)
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize("new_format", [True, False])
def test_gives_what_torch_gives(tmp_path: Path, new_format: bool) -> None:
    weight = torch.randn(4, 3, 5, 5)
    state = {
        "plain": weight,
        "channels_last": weight.to(memory_format=torch.channels_last),
        "view": weight[1:3, ::2],
        "turned": weight.transpose(0, 1),
        "expanded": torch.ones(1).expand(5),
        "parameter": nn.Parameter(weight),
        "number": torch.tensor(3.0),
        "nothing": torch.empty(3, 0),
        **{str(dtype): torch.arange(9).to(dtype) for dtype in DTYPES},
    }
    if new_format:  # the old one does not know them
        state |= {str(dtype): torch.arange(9.0).to(dtype) for dtype in NEW_DTYPES}
    path = tmp_path / "net.pth"
    torch.save(state, path, _use_new_zipfile_serialization=new_format)
    found, expected = load_state_dict(path), torch.load(path, weights_only=True)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert found[name].stride() == value.stride()
        numbers = (tensor.detach().contiguous() for tensor in (found[name], value))
        one, other = (tensor.view(-1).view(torch.uint8) for tensor in numbers)
        assert torch.equal(one, other), name
    # What shares memory when it is saved does so when it is read.
    assert found["plain"].data_ptr() == found["turned"].data_ptr()


@pytest.mark.parametrize("new_format", [True, False])
def test_reads_all_that_a_training_saves(tmp_path: Path, new_format: bool) -> None:
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.8, 0.9))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = {"epoch": 3, "best": math.inf, "notes": ["a", None], "model": model.state_dict()}
    state["optimizer"] = optimizer.state_dict()
    path = tmp_path / "training.pt"
    torch.save(state, path, _use_new_zipfile_serialization=new_format)
    found = load_saved(path)
    assert {name: found[name] for name in ("epoch", "best", "notes")} == {
        "epoch": 3,
        "best": math.inf,
        "notes": ["a", None],
    }
    assert same(found["model"], state["model"])
    assert found["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    for number, moments in state["optimizer"]["state"].items():
        assert same(found["optimizer"]["state"][number], moments)
    assert same(load_state_dict(path), state["model"])


@pytest.mark.parametrize("attribute", ["items", "get", "keys", "__class__"])
def test_attributes_of_a_dict_are_of_no_account(tmp_path: Path, attribute: str) -> None:
    body = pickling.called(pickling.named("collections", "OrderedDict"))
    body += pickling.value({attribute: 3}) + b"b("
    body += pickling.value("weight") + pickling.tensor() + b"u"
    pickling.write_zip(tmp_path / "net.pth", body)
    assert same(load_state_dict(tmp_path / "net.pth"), {"weight": torch.zeros(4)})


def test_an_accuracy_of_numpy_does_no_harm(tmp_path: Path) -> None:
    state = make_model().state_dict()
    torch.save({"net": state, "acc": np.float64(84.4)}, tmp_path / "net.pth")
    assert same(load_state_dict(tmp_path / "net.pth"), state)


@pytest.mark.parametrize("key", [(0, 1), b"0", 1 << 80, -(1 << 63)], ids=str)
@pytest.mark.parametrize("new_format", [True, False])
def test_keys_of_any_type_do_no_harm(tmp_path: Path, key: object, new_format: bool) -> None:
    """Such as the cells of a confusion matrix, beside the weights or deep below."""
    path = tmp_path / "net.pth"
    content: object = {key: 3, (5, 5): 4}
    for _ in range(20):
        content = [content]
    state = {"w": torch.ones(1)}
    saved = {"model": state, "confusion": content, key: 1}
    torch.save(saved, path, _use_new_zipfile_serialization=new_format)
    assert load_state_dict(path) == state
    found = load_saved(path)
    assert list(found.values())[2] == 1
    for _ in range(20):
        (found,) = found["confusion"] if isinstance(found, dict) else found
    assert list(found.values()) == [3, 4]


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors", "net"])
def test_content_decides_and_not_the_name(tmp_path: Path, name: str) -> None:
    state = make_model().state_dict()
    torch.save(state, tmp_path / name)
    assert same(load_state_dict(tmp_path / name), state)
    save_model(tmp_path / name, state)
    assert same(load_state_dict(tmp_path / name), state)


def test_a_packed_archive_is_read_too(tmp_path: Path) -> None:
    state = make_model().state_dict()
    torch.save(state, tmp_path / "net.pth")
    packed = zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "net.pth") as old, packed:
        for name in old.namelist():
            packed.writestr(name, old.read(name))
    assert same(load_state_dict(tmp_path / "packed.pth"), state)


def test_reads_what_safetensors_reads(tmp_path: Path) -> None:
    state = {str(dtype): torch.arange(9).to(dtype) for dtype in DTYPES[:-1]}
    state |= {"nothing": torch.empty(3, 0), "number": torch.tensor(2.0), "λ": torch.ones(1)}
    path = tmp_path / "net.safetensors"
    save_file(state, path, metadata={"format": "pt", "by": "another program"})
    found, expected = load_state_dict(path), load_file(path)
    assert same(found, expected)
    assert all(found[name].dtype == value.dtype for name, value in expected.items())
    assert all(found[name].stride() == value.stride() for name, value in expected.items())


def test_what_was_read_can_be_saved_for_others(tmp_path: Path) -> None:
    state = make_model().state_dict()
    save_model(tmp_path / "net.safetensors", state)
    torch.save(load_state_dict(tmp_path / "net.safetensors"), tmp_path / "net.pth")
    assert same(torch.load(tmp_path / "net.pth", weights_only=True), state)
    assert same(copy.deepcopy(load_state_dict(tmp_path / "net.pth")), state)


def test_one_state_dict_under_two_names_is_one(tmp_path: Path) -> None:
    state = make_model().state_dict()
    torch.save({"net": state, "model": state}, tmp_path / "net.pth")
    assert same(load_state_dict(tmp_path / "net.pth"), state)
    other = {"net": state, "model": make_model().state_dict()}
    torch.save(other, tmp_path / "net.pth")
    with pytest.raises(ValueError, match="got several that differ, under net and model"):
        load_state_dict(tmp_path / "net.pth")


def test_a_limit_on_the_size(tmp_path: Path) -> None:
    save_model(tmp_path / "net.safetensors", make_model())
    with pytest.raises(ValueError, match=r"net\.safetensors: expected at most"):
        load_state_dict(tmp_path / "net.safetensors", limit=1000)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_weights_of_another_precision_fit(dtype: torch.dtype) -> None:
    model = make_model()
    state = {name: value.to(dtype) for name, value in make_model().state_dict().items()}
    load_into(model, state)
    assert torch.equal(model[0].weight, state["0.weight"].float())
    assert model[1].num_batches_tracked.dtype == torch.int64


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("0.weight", torch.full((4, 3, 3, 3), math.nan), "NaN or infinite values: 0.weight"),
        ("0.weight", torch.ones(4, 3, 3, 3).long(), r"expected float32, got int64"),
        ("0.weight", torch.ones(4, 3, 3, 3).bool(), r"expected float32, got bool"),
        ("1.running_var", torch.tensor([1.0, 1, -1e-9, 1]), "negative: 1.running_var"),
    ],
)
def test_weights_that_no_network_has(name: str, value: torch.Tensor, message: str) -> None:
    model = make_model()
    before = {key: kept.clone() for key, kept in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_into(model, {**before, name: value})
    assert same(model.state_dict(), before)


def test_what_does_not_fit_is_told_with_its_file(tmp_path: Path) -> None:
    save_model(tmp_path / "net.safetensors", make_model(outputs=3))
    with pytest.raises(ValueError, match=r"net\.safetensors: the weights don't fit .*\(3, 4\)"):
        load_into(make_model(), load_state_dict(tmp_path / "net.safetensors"))


class Own(nn.Module):
    """A module of a class of someone's own, with all that modules keep."""

    def __init__(self) -> None:
        super().__init__()
        self.net = make_model()
        self.last = self.net[3]
        self.scale = nn.Parameter(torch.ones(3))
        self.nothing = nn.Linear(2, 2, bias=False)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("passing", torch.zeros(3), persistent=False)
        self.activation = torch.nn.functional.relu
        self.norm = functools.partial(nn.LayerNorm, eps=1e-6)

    def __setstate__(self, state: dict[str, object]) -> None:
        raise AssertionError("it was executed")


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("nest", [False, True])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_whole_modules_give_up_their_tensors(tmp_path: Path, new_format: bool, nest: bool) -> None:
    model = Own()
    path = tmp_path / "model.pt"
    content = {"epoch": 3, "model": nn.DataParallel(model)} if nest else model
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    found = load_state_dict(path)
    assert list(found) == list(model.state_dict())
    assert same(found, dict(model.state_dict()))
    # The class does harm where it is imported, so reading it above has not done so.
    with pytest.raises(AssertionError, match="it was executed"):
        torch.load(path, weights_only=False)


@pytest.mark.parametrize("new_format", [True, False])
def test_numbers_and_arrays_of_numpy(tmp_path: Path, new_format: bool) -> None:
    arrays = {
        "wide": np.arange(6, dtype=np.int16).reshape(2, 3),
        "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big-endian": np.arange(3, dtype=">i4"),
        "none": np.zeros((0, 3)),
    }
    content = {
        "acc": np.float64(84.4),
        "right": np.bool_(True),
        "where": {np.int64(3): np.float32(0.5)},
        **arrays,
    }
    path = tmp_path / "record.pt"
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    found = load_saved(path)
    assert {key: found[key] for key in ("acc", "right", "where")} == {
        "acc": 84.4,
        "right": True,
        "where": {3: 0.5},
    }
    for name, expected in arrays.items():
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_both_names_of_numpy_s_core(tmp_path: Path, core: str) -> None:
    dtype = pickling.called(pickling.named("numpy", "dtype"), pickling.value("i8"))
    scalar = pickling.named(f"{core}.multiarray", "scalar")
    number = pickling.called(scalar, dtype, pickling.value((7).to_bytes(8, "little")))
    empty = pickling.called(
        pickling.named(f"{core}.multiarray", "_reconstruct"),
        *(pickling.named("numpy", "ndarray"), pickling.value((0,)), pickling.value(b"b")),
    )
    state = pickling.value(1), pickling.value((2,)), dtype, b"\x89", pickling.value(bytes(16))
    array = empty + pickling.paired(*state) + b"b"
    pickling.write_zip(tmp_path / "record.pt", pickling.dictionary(number=number, array=array))
    found = load_saved(tmp_path / "record.pt")
    assert found["number"] == 7
    np.testing.assert_array_equal(found["array"], np.zeros(2, np.int64))


@pytest.mark.parametrize("new_format", [True, False])
def test_pictures_are_passed_over(tmp_path: Path, new_format: bool) -> None:
    content = {"net": make_model().state_dict(), "bd": {0: (Image.new("RGB", (4, 4)), 1)}}
    path = tmp_path / "record.pt"
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    picture, label = load_saved(path)["bd"][0]
    assert isinstance(picture, Other) and label == 1


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"?", b"\x80\x02.", bytes(64), b"PK\x03\x04" + b"x" * 99])
def test_broken_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        load_state_dict(tmp_path / name)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"net\.pth: no such file"):
        load_state_dict(tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": {"a": torch.ones(1)}, "epoch": 3}, "the keys weights, epoch"),
        ({}, r"the keys \(none\)"),
        (torch.ones(1), "got a Tensor"),
    ],
)
def test_files_without_a_state_dict(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=message):
        load_state_dict(tmp_path / "net.pth")


def test_mismatch_names_what_differs_and_changes_nothing() -> None:
    model, state = make_model(), dict(make_model(outputs=5).state_dict())
    state["extra.weight"] = state.pop("0.bias")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_into(model, state)
    message = str(caught.value)
    assert "don't fit into Sequential: missing: 0.bias; unknown: extra.weight; " in message
    assert "3.weight (expected (2, 4), got (5, 4)), 3.bias (expected (2,), got (5,))" in message
    assert same(model.state_dict(), before)


def test_mismatch_of_much_is_shortened() -> None:
    with pytest.raises(ValueError, match=r"1\.bias, 1\.running_mean and 4 more$"):
        load_into(make_model(), {})
