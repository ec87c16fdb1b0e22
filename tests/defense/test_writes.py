"""What is written is there whole or not at all, and only where it was asked for."""

from __future__ import annotations

import ast
import contextlib
import errno
import hashlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import awm_defense
from awm_defense.attacks.stored import FIELD, MASK, write_attack
from awm_defense.files import atomic, together
from awm_defense.files.atomic import remove_parts, write_bytes, write_json
from awm_defense.files.folder import LOCK, output_folder
from awm_defense.files.together import UNFINISHED, write_together
from awm_defense.files.uninterrupted import uninterrupted
from awm_defense.report.write import write_report
from tests.defense.test_report import make_result

OLD = {"a.bin": b"old a", "b.bin": b"old b", "gone.bin": b"old", "sign.json": b"old sign"}
NEW: dict[str, bytes | None] = {
    "sign.json": b"new sign",
    "a.bin": b"new a",
    "b.bin": b"new b",
    "gone.bin": None,
}


class Killed(BaseException):
    """Stands for a SIGKILL between two steps: no code of ours runs after it."""


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def filled(folder: Path) -> Path:
    folder.mkdir()
    for name, data in OLD.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def no_more_space(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Let the disk be full at the file of that number."""

    def fill(number: int) -> None:
        sync, calls = os.fsync, 0

        def full(handle: int) -> None:
            nonlocal calls
            calls += 1
            if calls == number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(handle)

        monkeypatch.setattr(os, "fsync", full)

    yield fill


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"first", b"", b"x" * 100_000):
        write_bytes(path, data)
        assert held(tmp_path) == {"file": data}
    write_json(path, {"key": [1, None, "ü"]})
    assert json.loads(path.read_text("utf-8")) == {"key": [1, None, "ü"]}


def test_the_mode_is_what_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file", b"data")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_links_are_replaced_and_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / "soft").symlink_to(elsewhere)
    os.link(elsewhere, out / "hard")
    (out / "nowhere").symlink_to(tmp_path / "missing")
    for name in ("soft", "hard", "nowhere"):
        write_bytes(out / name, b"new")
        assert (out / name).read_bytes() == b"new" and not (out / name).is_symlink()
    assert elsewhere.read_bytes() == b"mine" and not (tmp_path / "missing").exists()
    write_together(out, {"soft": b"again", "sign": b"1"}, sign="sign")
    assert elsewhere.read_bytes() == b"mine"


def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, no_more_space: Callable[[int], None]
) -> None:
    write_bytes(tmp_path / "file", b"old")
    no_more_space(1)
    with pytest.raises(OSError, match="can't be written: No space left") as caught:
        write_bytes(tmp_path / "file", b"new")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "file")
    assert held(tmp_path) == {"file": b"old"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limits of this kind")
def test_a_file_that_the_system_cuts_off_leaves_what_was_there(tmp_path: Path) -> None:
    """As a full disk does, but by the kernel: bytes are there already when it fails."""
    import resource

    write_bytes(tmp_path / "file", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="file"):
            write_bytes(tmp_path / "file", b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert held(tmp_path) == {"file": b"old"}


def test_a_folder_of_that_name_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="can't be written"):
        write_bytes(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_appear_together(tmp_path: Path) -> None:
    out = filled(tmp_path / "out")
    write_together(out, NEW, sign="sign.json")
    assert held(out) == {name: data for name, data in NEW.items() if data is not None}


@pytest.mark.parametrize("name", ["a.bin", "gone.bin", "sign.json"])
def test_a_folder_in_the_way_leaves_the_whole_old_result(name: str, tmp_path: Path) -> None:
    out = filled(tmp_path / "out")
    (out / name).unlink()
    (out / name).mkdir()
    with pytest.raises(IsADirectoryError, match=name):
        write_together(out, NEW, sign="sign.json")
    (out / name).rmdir()
    assert held(out) == {key: data for key, data in OLD.items() if key != name}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_full_disk_leaves_the_whole_old_result(
    number: int, tmp_path: Path, no_more_space: Callable[[int], None]
) -> None:
    out = filled(tmp_path / "out")
    no_more_space(number)
    with pytest.raises(OSError, match="No space left"):
        write_together(out, NEW, sign="sign.json")
    assert held(out) == OLD


def test_a_kill_at_any_step_leaves_no_sign_on_a_mixed_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step that changes the folder, one after the other, is the last."""
    new = {name: data for name, data in NEW.items() if data is not None}
    seen = set()
    replace, unlink, steps = os.replace, Path.unlink, 0

    def limited(step: Callable[..., object]) -> Callable[..., None]:
        def run(*args: object, **options: object) -> None:
            nonlocal steps
            if steps == 0:
                raise Killed
            steps -= 1
            step(*args, **options)

        return run

    for count in range(12):
        out = filled(tmp_path / str(count))
        steps = count
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", limited(replace))
            patch.setattr(Path, "unlink", limited(unlink))
            with contextlib.suppress(Killed):
                write_together(out, NEW, sign="sign.json")
        remove_parts(out)
        found = held(out)
        # What is left without a sign is known as ours.
        assert found.pop(UNFINISHED.format("sign.json"), None) is not None or "sign.json" in found
        assert all(data in (OLD.get(name), new.get(name)) for name, data in found.items())
        state = "none"
        if "sign.json" in found:
            state = found["sign.json"].decode()
            assert found == (OLD if state == "old sign" else new)
        seen.add(state)
    assert seen == {"old sign", "none", "new sign"}


def test_signals_wait_until_all_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = filled(tmp_path / "out")
    put, before = atomic.put_in_place, signal.getsignal(signal.SIGINT)

    def with_signal(part: Path, path: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        put(part, path)

    monkeypatch.setattr(together, "put_in_place", with_signal)
    with pytest.raises(KeyboardInterrupt):
        write_together(out, NEW, sign="sign.json")
    assert held(out) == {name: data for name, data in NEW.items() if data is not None}
    assert signal.getsignal(signal.SIGINT) is before


def test_ignored_signals_stay_ignored_and_threads_are_left_alone() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with uninterrupted():
                pass
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == []


def test_an_output_folder_is_made_and_kept_where_something_is_in_it(tmp_path: Path) -> None:
    out = tmp_path / "one" / "two"
    with output_folder(out):
        assert (out / LOCK).exists()
    assert not (tmp_path / "one").exists()
    with output_folder(out):
        (out / "file").write_bytes(b"data")
    assert held(out) == {"file": b"data"}
    empty = tmp_path / "empty"
    empty.mkdir()
    with output_folder(empty):
        pass
    assert empty.is_dir()


def test_an_output_folder_is_freed_of_what_a_kill_left(tmp_path: Path) -> None:
    atomic.write_part(tmp_path / "model.safetensors", b"half")
    mine = {name: b"mine" for name in ("mine.part", ".awm-notes.part")}
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    with output_folder(tmp_path):
        pass
    assert held(tmp_path) == mine


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no lock of this kind")
def test_two_runs_are_kept_apart(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        output_folder(out),
        pytest.raises(ValueError, match="out: another run is writing"),
        output_folder(out),
    ):
        pass
    # A kill leaves the file, not the lock.
    out.mkdir(exist_ok=True)
    (out / LOCK).write_bytes(b"")
    with output_folder(out):
        pass


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.symlink_to(path.with_name("elsewhere")),
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b"mine"),
    ],
)
def test_a_lock_is_an_empty_file(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / LOCK)
    refused = pytest.raises(ValueError, match=rf"{LOCK}: expected an empty file")
    with refused, output_folder(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_no_output_folder_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="expected a folder") as caught, output_folder(path):
            pass
        assert caught.value.filename == str(path)
    assert held(tmp_path) == {"file": b"mine"}


def test_a_report_records_the_files_that_belong_to_it(tmp_path: Path) -> None:
    given = {"model.safetensors": b"weights", "masks.safetensors": None}
    write_report(
        tmp_path,
        result=make_result(),
        title="t",
        weights={"masks.safetensors": b"of another run"},
    )
    write_report(tmp_path, result=make_result(), title="t", weights=given)
    assert not (tmp_path / "masks.safetensors").exists()
    assert (tmp_path / "model.safetensors").read_bytes() == b"weights"
    digest = hashlib.sha256(b"weights").hexdigest()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["sha256"] == {"model.safetensors": digest}
    assert digest in (tmp_path / "report.html").read_text()


def test_a_report_that_cannot_be_made_changes_nothing(tmp_path: Path) -> None:
    write_report(tmp_path, result=make_result(), title="t", weights={"model": b"old"})
    before = held(tmp_path)
    with pytest.raises(TypeError):
        write_report(
            tmp_path,
            result=make_result(),
            title="t",
            extra={"fact": object()},
            weights={"model": b"new"},
        )
    assert held(tmp_path) == before


def test_triggers_are_written_at_once(tmp_path: Path, no_more_space: Callable[[int], None]) -> None:
    from awm_defense.attacks import make_attack

    image = torch.rand(3, 32, 32)
    replacing = make_attack("l0_inv", 0, trigger_image=image, num_classes=10)
    warping = make_attack("wanet", 0, num_classes=10, trigger_field=torch.zeros(32, 32, 2))
    write_attack(tmp_path, replacing)
    write_attack(tmp_path, warping)
    before = held(tmp_path)
    assert {MASK, FIELD} < set(before)
    no_more_space(1)
    with pytest.raises(OSError, match=FIELD):
        write_attack(tmp_path, warping)
    assert held(tmp_path) == before


DRAW = """
import os
from awm_defense.report.pictures import draw_history
assert draw_history([{"epoch": 0, "clean_loss": 1.0}]).startswith(b"\\x89PNG")
print(os.environ.get("MPLCONFIGDIR"))
"""


def draw(home: Path, **more: str) -> str:
    """Draw in a process with that home; returns what MPLCONFIGDIR was in the end."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("XDG_", "MPL", "HOME", "TMP"))
    }
    temporary = home.parent / "temporary"
    temporary.mkdir(exist_ok=True)
    told = subprocess.run(
        [sys.executable, "-c", DRAW],
        env={**kept, "HOME": str(home), "TMPDIR": str(temporary), **more},
        capture_output=True,
        text=True,
        check=True,
    )
    assert list(temporary.iterdir()) == []
    return told.stdout.strip()


def test_pictures_leave_no_file_at_home(tmp_path: Path) -> None:
    home, chosen = tmp_path / "home", tmp_path / "chosen"
    home.mkdir()
    chosen.mkdir()
    assert draw(home) == "None"
    assert draw(home, MPLCONFIGDIR=str(chosen)) == str(chosen)
    assert list(home.iterdir()) == []
    assert list(chosen.iterdir()) != []  # it counts, as it did


# Calls that write files, and those that may: into memory, or as the one place that does.
WRITERS = {"write_text", "write_bytes", "savefig", "save", "save_file", "dump", "tofile", "touch"}
KNOWN = {
    ("files/backdoorbench.py", "save"),  # a defense_result.pt, into memory
    ("files/encoded.py", "save"),  # PNG and NPY, into memory
    ("report/drawing.py", "savefig"),  # the same
    ("report/drawing.py", "touch"),  # in a temporary folder
    ("training/loop.py", "save"),  # the same
}
MODE = re.compile(r"'[rbt]*[wxa+][rwxabt+]*'")
FLAG = re.compile("O_WRONLY|O_RDWR|O_CREAT")
OPENERS = {
    "files/atomic.py",
    "files/folder.py",  # the lock
    "commands/main.py",  # /dev/null
    "commands/stderr.py",  # the same
}


def writing_calls(source: str) -> set[str]:
    """Names of the calls that write files: methods, and `open` in a mode that does."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name in WRITERS:
            found.add(name)
        name = name or (node.func.id if isinstance(node.func, ast.Name) else "")
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        words = [ast.unparse(one) for one in given]
        if name == "open" and any(MODE.fullmatch(word) or FLAG.search(word) for word in words):
            found.add("open")
    return found


def test_nothing_else_opens_files_for_writing() -> None:
    root = Path(awm_defense.__file__).parent
    found = {
        (path.relative_to(root).as_posix(), name)
        for path in root.rglob("*.py")
        for name in writing_calls(path.read_text("utf-8"))
    }
    assert found == KNOWN | {(path, "open") for path in OPENERS}


@pytest.mark.parametrize(
    "source",
    [
        "open(path, 'w')",
        "path.open('ab')",
        "open(path, mode='r+')",
        "path.write_text(text)",
        "np.save(path, array)",
        "os.open(path, os.O_WRONLY | os.O_CREAT)",
    ],
)
def test_the_search_for_writing_calls_finds_them(source: str) -> None:
    assert writing_calls(source)
    assert not writing_calls("open(path); path.open('rb'); path.open(newline='', encoding='ascii')")
