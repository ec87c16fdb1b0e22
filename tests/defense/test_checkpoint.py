"""Checkpoints of every form that people save, broken ones, and hostile ones."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from awm_defense.files.checkpoint import load_into, load_state_dict, save_model


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


def test_refuses_whole_modules(tmp_path: Path) -> None:
    torch.save(make_model(), tmp_path / "net.pth")
    with pytest.raises(ValueError, match="can't be read as weights alone"):
        load_state_dict(tmp_path / "net.pth")


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
    with pytest.raises(ValueError, match=r"missing: 0\.weight, 0\.bias, 1\.weight and 6 more$"):
        load_into(make_model(), {})
