"""Checkpoints with tensors that can't be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.hostile import pickling as p
from tests.hostile.case import Case, case, written


def tensor_cases() -> Iterator[Case]:
    """Tensors that can't be."""
    numbers: dict[str, tuple[dict[str, Any], str]] = {
        "beyond its storage": ({"shape": (5,)}, "reaches beyond"),
        "offset beyond its storage": ({"offset": 1}, "reaches beyond"),
        "stride beyond its storage": ({"stride": (2,)}, "reaches beyond"),
        "offset 2^62": ({"offset": 1 << 62}, "too large"),
        "offset 2^70": ({"offset": 1 << 70}, "offset"),
        "negative offset": ({"offset": -1}, "offset"),
        "negative shape": ({"shape": (-4,)}, "shape"),
        "negative stride": ({"stride": (-1,)}, "stride"),
        "shape of petabytes": ({"shape": (1 << 50,), "stride": (1,)}, "reaches beyond"),
        "shape whose product overflows": (
            {"shape": (1 << 40, 1 << 40), "stride": (0, 0)},
            "too large",
        ),
        "expanded to 2 GiB": (
            {"shape": (1 << 29,), "stride": (0,)},
            "is more than the whole file holds",
        ),
        "a million dimensions": (
            {"shape": (1,) * 1_000_000, "stride": (0,) * 1_000_000},
            "dimensions",
        ),
        "more strides than dimensions": ({"stride": (1, 1)}, "shape, stride or offset"),
        "shape of floats": ({"shape": (4.0,)}, "shape"),
        "shape of text": ({"shape": "4444"}, "shape"),
        "shape of truths": ({"shape": (True,)}, "shape"),
        "no shape": ({"shape": None}, "broken"),
    }
    for name, (fields, says) in numbers.items():
        body = p.dictionary(w=p.tensor(**fields))
        for kind, content in (("zip", p.archive(p.program(body, 5))), ("legacy", p.legacy(body))):

            def make(path: Path, content: bytes = content) -> None:
                path.write_bytes(content)

            yield case(f"tensor, {name}, {kind}", "checkpoint", make, says)
            if "expanded" in name:
                yield case(f"tensor, {name}, {kind}", "training", make, says)
    storages = {
        "numel 5": (p.storage(numel=5), "expected 20 bytes"),
        "numel 2^60": (p.storage(numel=1 << 60), "expected 4611686018427387904 bytes"),
        "negative numel": (p.storage(numel=-1), "no storage"),
        "numel of text": (p.storage(numel="4"), "no storage"),
        "another type": (p.storage(dtype="DoubleStorage"), "expected 32 bytes"),
        "quantised": (p.storage(dtype="QInt8Storage"), "without a storage"),
        "no such type": (p.storage(dtype="FileStorage"), "torch.FileStorage"),
        "missing": (p.storage("7"), "lacks data/7"),
        "outside": (p.storage("../../../etc/passwd"), "lacks data/../../../etc/passwd"),
        "with escapes": (p.storage("\x1b[2J\x07"), r"lacks data/\\x1b\[2J\\x07"),
        "no reference": (p.value("0") + b"Q", "broken"),
    }
    for name, (where, says) in storages.items():
        content = p.archive(p.program(p.dictionary(w=p.tensor(where)), 5))
        yield case(f"storage, {name}", "checkpoint", written(content), says)
