"""What the fuzzer takes for a finding, and that it reads as the door does."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from awm_defense.files import image_child, images, pickle_child, pickles
from awm_defense.files.arrays import read_image
from awm_defense.files.checkpoint import load_state_dict
from tests.hostile.checkpoints import good_files
from tests.hostile.pixels import picture
from tests.soak.fuzz import reading


def test_what_is_read_in_this_process_is_what_the_door_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    limits = resource.getrlimit(resource.RLIMIT_AS)
    for content in good_files().values():
        path.write_bytes(content)
        expected = load_state_dict(path)
        with monkeypatch.context() as inside:
            inside.setattr(pickles, "Child", reading.Inside)
            found = load_state_dict(path)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    for content in (picture("PNG"), picture("GIF")):
        path.write_bytes(content)
        image = read_image(path)
        with monkeypatch.context() as inside:
            inside.setattr(images, "Child", reading.Inside)
            assert torch.equal(read_image(path), image)
    assert resource.getrlimit(resource.RLIMIT_AS) == limits


def test_the_programs_have_the_same_limit() -> None:
    assert pickle_child.MEMORY == image_child.MEMORY


def test_the_corpus_is_where_it_begins(tmp_path: Path) -> None:
    found = list(reading.seeds(tmp_path))
    assert {reading.NAMES[content[0]] for content in found} == set(reading.NAMES)
    assert len(found) > 350
    assert max(map(len, found)) <= 1 + reading.LONGEST


def raising(error: BaseException) -> Callable[[Path], None]:
    """A reader that fails so."""

    def read(path: Path) -> None:
        raise error

    return read


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (raising(KeyError("data")), "data"),
        (raising(ValueError("no file is named")), "names no file"),
        (raising(ValueError("\x1b[2J")), "not printable"),
        (raising(ValueError("n" * 2000)), "2000 characters"),
        (lambda path: bytearray(b"a") * (1 << 30), "too much memory"),
        (lambda path: reading.forbid("subprocess.Popen", ()), "subprocess.Popen"),
    ],
)
def test_findings_are_found(
    read: Callable[[Path], object], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MEMORY", 128 << 20)
    monkeypatch.setitem(reading.FUZZED, "array", ("field.npy", read))
    (tmp_path / "array").mkdir()
    # What earlier tests left could go while it reads, and hide what that takes, were it little.
    gc.collect()
    with pytest.raises(BaseException, match=says):
        reading.check(bytes([reading.NAMES.index("array")]), tmp_path)


def test_refusals_are_no_findings(tmp_path: Path) -> None:
    (tmp_path / "array").mkdir()
    reading.check(bytes([reading.NAMES.index("array")]) + b"nonsense", tmp_path)
