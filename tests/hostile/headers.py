"""Checkpoints in safetensors whose headers lie."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile.case import Case, case, written


def safetensors_file(header: object, numbers: bytes = bytes(16)) -> bytes:
    """A file with this header, in JSON where it is no text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


def entry(**changes: object) -> dict[str, object]:
    """The header's entry of four numbers, with something else in it."""
    return {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}


EMPTY = entry(shape=[0], data_offsets=[0, 0])


def safetensors_cases() -> Iterator[Case]:
    """Headers that lie."""
    two = {"a": entry(), "b": entry(data_offsets=[16, 32])}
    made = safetensors_file
    files: dict[str, tuple[bytes, str]] = {
        "a header of 2^60 bytes": ((1 << 60).to_bytes(8, "little") + b"{", "its header has"),
        "a header beyond the file": ((1000).to_bytes(8, "little") + b"{}", "the file ends"),
        "no JSON": (made(b"{nonsense"), "expected JSON"),
        "not UTF-8": (made(b'{"\xff": 1}'), "UTF-8"),
        "a name twice": (made(b'{"a": 1, "a": 2}'), "each name once"),
        "nested 100,000 deep": (made(b'{"a":' * 100_000), "levels"),
        "nested 100 deep": (made(b'{"a":' * 100 + b"1" + b"}" * 100), "levels"),
        "NaN": (made(b'{"a": NaN}'), "finite"),
        "no tensors": (made({}, b""), r"the keys \(none\)"),
        "entry is a list": (made({"a": []}), "tensor a"),
        "entry is a number": (made({"a": 1}), "tensor a"),
        "no dtype": (made({"a": {"shape": [4], "data_offsets": [0, 16]}}), "tensor a"),
        "unknown dtype": (made({"a": entry(dtype="F12")}), "tensor a"),
        "dtype is a list": (made({"a": entry(dtype=[])}), "tensor a"),
        "shape is text": (made({"a": entry(shape="4")}), "tensor a"),
        "shape of floats": (made({"a": entry(shape=[4.0])}), "tensor a"),
        "shape of truths": (made({"a": entry(shape=[4, True])}), "tensor a"),
        "negative shape": (made({"a": entry(shape=[-4])}), "tensor a"),
        "two negative sides": (made({"a": entry(shape=[-2, -2])}), "tensor a"),
        "shape of petabytes": (made({"a": entry(shape=[1 << 60])}), "tensor a"),
        "three offsets": (made({"a": entry(data_offsets=[0, 8, 16])}), "tensor a"),
        "offsets of floats": (made({"a": entry(data_offsets=[0.0, 16.0])}), "tensor a"),
        "negative offsets": (made({"a": entry(data_offsets=[-16, 0])}), "tensor a"),
        "offsets the wrong way": (made({"a": entry(data_offsets=[16, 0])}), "tensor a"),
        "offsets beyond the file": (
            made({"a": entry(data_offsets=[16, 32])}),
            "don't fill",
        ),
        "a gap": (made({"a": entry(data_offsets=[8, 24])}, bytes(24)), "don't fill"),
        "an overlap": (
            made({"a": entry(), "b": entry(data_offsets=[8, 24])}, bytes(24)),
            "don't fill",
        ),
        "two on one place": (made({"a": entry(), "b": entry()}), "don't fill"),
        "half": (made(two, bytes(16)), "don't fill"),
        "bytes after the end": (made({"a": entry()}, bytes(17)), "don't fill"),
        "a name of 2 kB": (made({"n" * 2000: entry()}), "a name of 2000"),
        "a name with escapes": (
            made({"\x1b[2J\x1b]0;owned\x07": entry(dtype="?")}),
            r"tensor \\x1b\[2J",
        ),
    }
    large: dict[str, tuple[Callable[[], object], str]] = {
        "300,000 tensors": (lambda: {f"w{n}": EMPTY for n in range(300_000)}, "its header has"),
        "60,000 tensors": (lambda: {f"w{n}": EMPTY for n in range(60_000)}, "at most 50000"),
        "a million dimensions": (lambda: {"a": entry(shape=[1] * 1_000_000)}, "tensor a"),
        "a shape of long numbers": (lambda: {"a": entry(shape=[10**17] * 400_000)}, "tensor a"),
        "a name of 20 MB": (lambda: {"n" * 20_000_000: entry()}, "its header has"),
    }
    for name, (header, says) in large.items():

        def make(path: Path, header: Callable[[], object] = header) -> None:
            path.write_bytes(safetensors_file(header()))

        yield case(f"safetensors, {name}", "checkpoint", make, says)
    for name, (content, says) in files.items():
        yield case(f"safetensors, {name}", "checkpoint", written(content), says)
