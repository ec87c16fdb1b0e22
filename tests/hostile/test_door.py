"""Every file goes through the door, and a pickle only through a process of its own."""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import awm_defense
from awm_defense.files.checkpoint import load_state_dict
from awm_defense.files.door import open_file, read_file
from awm_defense.files.images import open_image
from awm_defense.files.pickles import PROGRAM, read_pickle
from awm_defense.files.text import shown
from tests.hostile import pickling as p
from tests.hostile.pixels import png

ROOT = Path(awm_defense.__file__).parent
# What opens a file for reading, or reads a format that can do harm.
OPENERS = {
    "open",
    "fdopen",
    "FileIO",
    "read_text",
    "read_bytes",
    "fromfile",
    "memmap",
    "genfromtxt",
    "loadtxt",
    "from_file",
    "load_file",
    "safe_open",
    "ZipFile",
    "Unpickler",
}
# The same as methods of a module: `json.load`, `torch.load`.
LOADERS = {"torch", "np", "numpy", "json", "pickle", "marshal", "joblib", "yaml"}
# A mode or a flag of a call that writes, or that opens a folder.
WRITES = re.compile(r"'[wxa]b?'|\bO_(WRONLY|CREAT|DIRECTORY)\b")
ALLOWED = {
    # The door, and what gets from it a file that is open or bytes.
    "files/door.py": {"open", "super"},
    "files/arrays.py": {"ZipFile", "open"},
    "files/torch_file.py": {"ZipFile", "open"},
    "files/image_child.py": {"open"},
    # A part of this package.
    "reproduce/tables.py": {"read_text"},
}


def opened(path: Path) -> Iterator[str]:
    """The names of calls in a module that open files, but for those that open them to write."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call) or WRITES.search(ast.unparse(node)):
            continue
        call = node.func
        if isinstance(call, ast.Attribute):
            of = call.value.id if isinstance(call.value, ast.Name) else ""
            if call.attr in OPENERS or (of in LOADERS and call.attr == "load"):
                yield call.attr
        elif isinstance(call, ast.Name) and call.id in OPENERS:
            yield call.id


def test_nothing_else_opens_files() -> None:
    found = {str(path.relative_to(ROOT)): set(opened(path)) for path in ROOT.rglob("*.py")}
    found = {name: calls for name, calls in found.items() if calls}
    assert set(found) == set(ALLOWED)
    for name, calls in found.items():
        assert calls <= ALLOWED[name], name


def test_the_search_for_openers_finds_them(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("open(a)\npath.read_text()\ntorch.load(a)\nloads(a)\npath.open('rb')\n")
    assert sorted(opened(module)) == ["load", "open", "open", "read_text"]
    module.write_text("open(a, 'w')\npath.open('xb')\nos.open(a, os.O_RDWR | os.O_CREAT)\n")
    assert not list(opened(module))


def test_reads_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = os.urandom(40_000_000)
    path.write_bytes(content)
    assert read_file(path, 1 << 30) == content
    with open_file(path, 1 << 30) as file:
        assert file.size == len(content)
        assert file.part(39_999_990, 10) == content[-10:]
        with pytest.raises(ValueError, match="the file ends at 40000000"):
            file.part(39_999_991, 10)
        with pytest.raises(ValueError, match="a part of 40000000 bytes"):
            file.seek(0)
            file.read()
    with pytest.raises(ValueError, match="file: expected at most 1 MiB, got 38 MiB"):
        read_file(path, 1 << 20)
    with pytest.raises(ValueError, match="at most 39999999 bytes, got 40000000 bytes"):
        read_file(path, 39_999_999)


def test_leaves_no_file_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "net.pth").write_bytes(b"nonsense")
    for name in ("pipe", "net.pth", "missing"):
        with pytest.raises((ValueError, FileNotFoundError)):
            load_state_dict(tmp_path / name)
    p.write_zip(tmp_path / "net.pth", p.dictionary(w=p.tensor()))
    load_state_dict(tmp_path / "net.pth")
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_child_imports_little() -> None:
    """So it starts fast: in a tenth of a second where nothing else runs."""
    code = f"import runpy, sys; runpy.run_path({str(PROGRAM)!r}, run_name='child')"
    code += "; print(sorted({'torch', 'numpy', 'awm_defense'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems know other limits")
def test_the_child_can_open_nothing_and_start_nothing() -> None:
    code = f"""
import runpy, json
limits = runpy.run_path({str(PROGRAM.with_name("child_limits.py"))!r})
limits["set_limits"](768 << 20, 4)
found = []
acts = lambda: open("/etc/hostname"), lambda: open("/dev/null", "w"), lambda: bytearray(1 << 30)
for act in acts:
    try:
        act()
        found.append("")
    except (OSError, MemoryError) as error:
        found.append(type(error).__name__)
import sys
sys.stdout.write(repr(found))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "['OSError', 'OSError', 'MemoryError']"


SAY = """
import sys
def say(length, more, text):
    sys.stdin.buffer.read()
    for size in (length, more):
        sys.stdout.buffer.write(size.to_bytes(8, "little"))
    sys.stdout.buffer.write(text)
"""


def test_a_child_that_dies_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "child.py"
    monkeypatch.setattr("awm_defense.files.pickles.PROGRAM", program)
    for code, says in (
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "by SIGSEGV$"),
        ("import sys; sys.exit(3)", "ended with code 3"),
        ("print('hello')", "ended with code 0"),
        (SAY + "say(2, 0, b'[]')", "no answer: expected a JSON object"),
        (SAY + "say(1 << 40, 0, b'')", "no answer: it is too long"),
        (SAY + "say(2, 1 << 40, b'{}')", "no answer: it is too long"),
    ):
        program.write_text(code)
        with pytest.raises(ValueError, match=says):
            read_pickle("zip", bytes(1 << 20))


def test_a_busy_machine_is_no_reason_to_refuse(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where everything takes ten times as long, on the clock, but no more computing."""
    image, weights = tmp_path / "image.png", tmp_path / "net.pth"
    image.write_bytes(png(8, 8))
    torch.save({"w": torch.ones(1)}, weights)
    clock = itertools.count(0.0, 4.0)
    monkeypatch.setattr("awm_defense.files.child.time.monotonic", lambda: next(clock))
    assert open_image(image).size == (8, 8)
    before = next(clock)
    assert load_state_dict(weights)["w"].item() == 1
    assert next(clock) - before > 9


def test_a_child_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "child.py"
    monkeypatch.setattr("awm_defense.files.pickles.PROGRAM", program)
    monkeypatch.setattr("awm_defense.files.pickles.PATIENCE", 0.5)
    # One reads nothing, one closes what it should answer on, one writes for ever.
    for code in (
        "import time; time.sleep(60)",
        "import os, time; os.close(0); time.sleep(60)",
        "import sys\nwhile True: sys.stdout.buffer.write(bytes(1 << 20))",
    ):
        program.write_text(code)
        started = time.perf_counter()
        with pytest.raises(ValueError, match=r"no answer in 0\.5 s; the machine may be too busy"):
            read_pickle("zip", bytes(1 << 20))
        assert time.perf_counter() - started < 10


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"content": ["T"]},
        {"content": ["d", 3]},
        {"content": ["d", [["w", ["T", "0", "float32", -4, 0, [4], [1], "float32"]]]]},
        {"content": ["d", [["w", ["T", "0", "os.system", 4, 0, [4], [1], "float32"]]]]},
        {"content": ["d", [["w", ["T", [], "float32", 4, 0, [4], [1], "float32"]]]]},
        {"content": ["d", [["w", ["T", "0", "float32", 4, 0, {}, 7, "float32"]]]]},
        {"content": ["d", [["w", ["T", "0", "float32", 4, 2, [4], [1], "float32"]]]]},
        {"content": ["d", [[["l", []], 1]]]},
        {"error": ["\x1b[2J"]},
    ],
)
def test_what_a_child_answers_is_not_trusted(
    answer: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "child.py"
    text = json.dumps(answer).encode()
    program.write_text(SAY + f"say({len(text)}, 0, {text!r})")
    p.write_zip(tmp_path / "net.pth", p.dictionary(w=p.tensor()))
    assert torch.equal(load_state_dict(tmp_path / "net.pth")["w"], torch.zeros(4))
    monkeypatch.setattr("awm_defense.files.pickles.PROGRAM", program)
    with pytest.raises(ValueError, match=r"net\.pth: can't be read") as caught:
        load_state_dict(tmp_path / "net.pth")
    assert str(caught.value).isprintable()


def test_text_from_files_is_shown_on_one_line() -> None:
    assert shown("layer1.weight") == "layer1.weight"
    assert shown("naïve λ") == "naïve λ"
    assert shown("a\x1b[2J\nb\x07\u202e\ud800") == r"a\x1b[2J\nb\x07\u202e\ud800"
    assert shown("n" * 100) == "n" * 80 + "… (100 characters)"
    assert shown("\0" * 60) == r"\x00" * 20 + "… (60 characters)"
