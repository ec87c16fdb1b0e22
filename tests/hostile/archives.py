"""Checkpoints whose archive is broken, in both formats of `torch.save`."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from tests.hostile import pickling as p
from tests.hostile.case import Case, Make, case, written
from tests.hostile.code_in_pickles import REFUSED


def fields(count: int) -> Make:
    """Writes an archive so many of whose members have 16,000 empty fields in its directory."""

    def make(path: Path) -> None:
        whole = p.archive(p.program(p.dictionary(w=p.tensor())), {})
        first, last = whole.index(b"PK\x01\x02"), whole.rindex(b"PK\x05\x06")
        extra = struct.pack("<2H", 0x7777, 0) * 16_000
        entries = whole[first:last]
        number = entries.count(b"PK\x01\x02") + count
        for index in range(count):
            name = f"net/{index}".encode()
            head = struct.pack(
                "<4s4B4HL2L2H", b"PK\x01\x02", 20, 3, 20, *[0] * 8, len(name), len(extra)
            )
            entries += head + struct.pack("<3H2L", 0, 0, 0, 0, 0) + name + extra
        end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, number, number, len(entries), first, 0)
        path.write_bytes(whole[:first] + entries + end)

    return make


def archive_cases() -> Iterator[Case]:
    """Archives that are broken, or that torch did not write."""
    body = p.program(p.dictionary(w=p.tensor()))
    good = p.archive(body)

    def changed(old: bytes, new: bytes, count: int = -1) -> bytes:
        assert old in good
        return good.replace(old, new, count)

    start = good.index(b"net/data/0") + len(b"net/data/0")
    flipped = good[:start] + b"\x01" + good[start + 1 :]
    compressed = {
        kind: p.archive(body, compression=getattr(zipfile, f"ZIP_{kind}"))
        for kind in ("BZIP2", "LZMA")
    }
    sparse = zlib.compress(bytes(8 << 20))
    files: dict[str, tuple[bytes, str]] = {
        "a flipped byte": (flipped, "damaged"),
        "half": (good[: len(good) // 2], "zip"),
        "without its end": (good[:-10], "zip"),
        "only the first bytes": (good[:30], "zip"),
        "encrypted": (
            changed(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"),
            "encrypted",
        ),
        "a member of another name": (changed(b"net/data/0", b"net/data/1", 1), "damaged"),
        "two members of one name": (changed(b"net/data/0", b"net/version"[:10]), "lacks data/0"),
        "no data.pkl": (changed(b"data.pkl", b"data.pkk"), "torch.save did not write it"),
        "two data.pkl": (
            p.archive(body, more=(("other/data.pkl", body),)),
            "torch.save did not write it",
        ),
        "one name twice": (
            p.archive(body, more=(("net/data/0", bytes(16)),)),
            "two members of one name",
        ),
        "TorchScript": (p.archive(body, more=(("net/constants.pkl", b""),)), "TorchScript"),
        "big-endian": (p.archive(body, more=(("net/byteorder", b"big"),)), "big-endian"),
        "a broken pickle": (p.archive(body[:-5]), "broken"),
        "no pickle": (p.archive(b""), "broken"),
        "text": (p.archive(b"hello"), REFUSED),
        "an empty archive": (p.archive(body, {}), "lacks data/0"),
        **{f"{kind}": (content, "unusual way") for kind, content in compressed.items()},
        "zlib in a storage": (p.archive(body, {"0": sparse}), "expected 16 bytes"),
    }
    for name, (content, says) in files.items():
        yield case(f"archive, {name}", "checkpoint", written(content), says)

    def with_pairs(path: Path) -> None:
        two = p.dictionary(net=p.dictionary(w=p.tensor()), model=p.dictionary(v=p.tensor()))
        p.write_zip(path, two)

    yield case(
        "net and model", "checkpoint", with_pairs, "several that differ, under net and model"
    )

    def directory(path: Path) -> None:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as file:
            file.writestr("net/data.pkl", body)
            for number in range(100):
                file.writestr(f"{number:05d}" + "n" * 60_000, b"")
        # A hundred times the same long names: a directory of 600 MB could be claimed alike.
        whole = content.getvalue()
        first = whole.index(b"PK\x01\x02")
        last = whole.rindex(b"PK\x05\x06")
        entries = whole[first:last] * 4
        end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 404, 404, len(entries), first, 0)
        path.write_bytes(whole[:first] + entries + end)

    yield case("archive, a directory of 24 MB", "checkpoint", directory, "a part of 24")
    yield case("archive, 10 MB of fields", "checkpoint", fields(160), "a part of 10")
    yield case("archive, 7 MB of fields", "checkpoint", fields(110), "lacks data/0")
    legacy = p.legacy(p.dictionary(w=p.tensor()))
    olds: dict[str, tuple[bytes, str]] = {
        "half": (legacy[: len(legacy) // 2], "broken"),
        "the last number lacks": (legacy[:-4], "the file ends"),
        "another length": (
            p.legacy(p.dictionary(w=p.tensor()), numbers=bytes(8) + bytes(16)),
            "another length",
        ),
        "a storage that no tensor has": (
            p.legacy(p.dictionary(w=p.tensor()), keys=("0", "1")),
            "no tensor has",
        ),
        "no storages": (p.legacy(p.dictionary(w=p.tensor()), keys=()), "lacks storage 0"),
        "a view": (
            p.legacy(
                p.dictionary(
                    w=p.tensor(
                        p.paired(
                            p.value("storage"),
                            p.named("torch", "FloatStorage"),
                            *(p.value(part) for part in ("0", "cpu", 4, ("1", 0, 4))),
                        )
                        + b"Q"
                    )
                )
            ),
            "no storage",
        ),
        "numel 2^60": (
            p.legacy(
                p.dictionary(w=p.tensor(p.storage(numel=1 << 60))),
                numbers=(1 << 60).to_bytes(8, "little"),
            ),
            "the file ends",
        ),
        "big-endian": (p.legacy(p.dictionary(w=p.tensor()), little=False), "big-endian"),
    }
    for name, (content, says) in olds.items():
        yield case(f"legacy, {name}", "checkpoint", written(content), says)
