"""What the processes answer is what their functions return: these can be tried without them."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from awm_defense.files import image_child, pickle_child
from awm_defense.files.checkpoint import load_state_dict
from awm_defense.files.images import open_image
from tests.hostile import pickling as p
from tests.hostile.case import network
from tests.hostile.pixels import EPS, picture, png
from tests.hostile.records import array, batch


def saved(content: object, *, new: bool = True) -> bytes:
    """The pickle in what `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=new)
    if not new:
        return buffer.getvalue()
    with zipfile.ZipFile(buffer) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        return archive.read(name)


def answered(kind: str, content: bytes) -> dict[str, Any]:
    """What comes back, as JSON holds it."""
    found, _ = pickle_child.answer(kind, content)
    return json.loads(json.dumps(found))


def test_values_are_tagged_by_their_types() -> None:
    content = {
        "number": 3,
        "real": math.inf,
        "truth": True,
        "nothing": None,
        "list": [1, ["a"]],
        "tuple": (1,),
        7: "key",
        "set": {1},
        "bytes": b"x",
        "bytearray": bytearray(b"x"),
        "complex": 1j,
        "size": torch.Size((2, 3)),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "huge": 10**40,
        "numpy": np.float64(1),
    }
    found = answered("zip", saved(content))["content"]
    assert isinstance(found, list) and found[0] == "d"
    pairs = {str(key): value for key, value in found[1]}
    other = {"set": "set", "bytes": "bytes", "bytearray": "bytearray", "complex": "complex"}
    other |= {"device": "Other", "huge": "int", "dtype": "Dtype"}
    assert pairs == {
        "number": 3,
        "real": math.inf,
        "truth": True,
        "nothing": None,
        "list": ["l", [1, ["l", ["a"]]]],
        "tuple": ["t", [1]],
        "7": "key",
        "size": ["t", [2, 3]],
        "numpy": 1.0,
        **{name: ["o", kind] for name, kind in other.items()},
    }


@pytest.mark.parametrize("new", [True, False])
def test_tensors_are_views_of_storages(new: bool) -> None:
    weight = torch.arange(24.0).reshape(2, 3, 4)
    content = {"view": weight[1:, ::2], "parameter": nn.Parameter(weight), "half": weight.half()}
    found = answered("zip" if new else "legacy", saved(content, new=new))
    tagged = dict(found["content"][1])
    key = tagged["view"][1]
    assert tagged["view"] == ["T", key, "float32", 24, 12, [1, 2, 4], [12, 8, 1], "float32"]
    assert tagged["parameter"] == ["T", key, "float32", 24, 0, [2, 3, 4], [12, 4, 1], "float32"]
    assert tagged["half"][2:4] == ["float16", 24]
    if not new:
        assert sorted(found["order"]) == sorted([[key, "float32", 24], tagged["half"][1:4]])


def test_types_that_came_later_have_storages_of_bytes() -> None:
    content = {"eight": torch.ones(3).to(torch.float8_e5m2), "state": network().state_dict()}
    tagged = dict(answered("zip", saved(content))["content"][1])
    assert tagged["eight"][2:] == ["uint8", 3, 0, [3], [1], "float8_e5m2"]
    assert [name for name, _ in tagged["state"][1]] == list(network().state_dict())


def test_parameters_with_attributes_are_tensors() -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.note = "a"  # type: ignore[attr-defined]
    tagged = dict(answered("zip", saved({"w": parameter}))["content"][1])
    assert tagged["w"][0] == "T"


LABELS = [[3, 9], (3, 9), np.array([3, 9], ">i4"), np.array([3, 9], "u1")]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("labels", LABELS)
def test_a_batch_is_its_pixels_and_labels(turned: bool, labels: object) -> None:
    pixels = np.arange(2 * 3072).astype(np.uint8).reshape(2, 3072)
    given = np.asfortranarray(pixels) if turned else pixels
    content = pickle.dumps({b"data": given, b"labels": labels}, protocol=2)
    found, payload = pickle_child.answer("batch", content)
    assert found == {"shape": [2, 3072], "fortran": turned, "labels": [3, 9]}
    assert payload == (pixels.T if turned else pixels).tobytes()


def test_python_2_wrote_the_official_batches() -> None:
    content = batch(array(bytes(range(6)), (2, 3)), p.value([1, 0]))
    assert pickle_child.answer("batch", content) == (
        {"shape": [2, 3], "fortran": False, "labels": [1, 0]},
        bytes(range(6)),
    )


@pytest.mark.parametrize(
    ("kind", "content", "says"),
    [
        ("zip", p.program(p.named("os", "system")), "it holds os.system, which is not plain data"),
        ("zip", p.program(p.shared_dicts(16, "a", "b", "c")), "it holds more than"),
        ("zip", p.program(b"]q\x01h\x01a"), "more than 32 levels"),
        ("zip", p.program(p.dictionary(w=p.tensor(shape=(-1,)))), "whose shape"),
        ("zip", b"", "broken (EOFError"),
        ("batch", p.program(p.value([1])), "expected a dict, got a list"),
        ("legacy", p.legacy(p.tensor(), keys=("1",)), "no tensor has"),
        ("legacy", p.legacy(p.tensor(), little=False), "big-endian"),
    ],
)
def test_refusals_are_answers(kind: str, content: bytes, says: str) -> None:
    assert says in str(answered(kind, content)["error"])


def decoded(content: bytes) -> tuple[int, int, bytes]:
    """Two numbers and the bytes of an answer about an image."""
    found = image_child.answer(Image, content, 64, 64, opaque=1)
    return int.from_bytes(found[:4], "little"), int.from_bytes(found[4:8], "little"), found[8:]


def test_an_image_is_its_pixels() -> None:
    content = picture("PNG", 16)
    with Image.open(io.BytesIO(content)) as image:
        assert decoded(content) == (16, 16, image.tobytes())
    # Grey becomes three channels.
    assert decoded(png(5, 3)) == (5, 3, bytes(45))


@pytest.mark.parametrize(
    ("content", "says"),
    [(EPS, b"got none of PNG"), (png(65, 3), b"at most 64x64 pixels, got 65x3"), (b"", b"none of")],
)
def test_a_sentence_stands_for_what_is_no_image(content: bytes, says: bytes) -> None:
    nothing, length, sentence = decoded(content)
    assert nothing == 0
    assert says in sentence and len(sentence) == length


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize("reader", [load_state_dict, open_image])
def test_where_files_run_out_it_is_said(reader: Callable[[Path], object], tmp_path: Path) -> None:
    import resource

    path = tmp_path / "file"
    if reader is open_image:
        path.write_bytes(png(2, 2))
    else:
        torch.save({"weight": torch.ones(1)}, path)
    given = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    said: list[str] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, given[1]))
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        while not said or said[-1]:  # with one more each time, until there are enough
            try:
                reader(path)
                said.append("")
            except (OSError, ValueError) as error:
                said.append(str(error))
            os.close(held.pop())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, given)
        for one in held:
            os.close(one)
    assert len(said) > 4
    assert all("oo many" in line and os.devnull not in line for line in said[:-1])


def test_an_image_may_take_time_by_its_pixels() -> None:
    assert image_child.overdrawn(Image, png(4000, 4000), 2.0) < 0
    assert image_child.overdrawn(Image, png(64, 64), 2.0) == pytest.approx(2, abs=0.1)
    # Whatever is quick has taken nothing.
    assert image_child.overdrawn(Image, png(64, 64), 0.01) == 0
