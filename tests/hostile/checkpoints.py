"""Checkpoints: code in pickles, pickles that take time or memory, broken archives and headers."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from tests.hostile import pickling as p
from tests.hostile.case import Case, Make, case, harm, network, written

# What scanners of pickles look for; none is of use in a file of weights.
CALLABLES = Path(__file__).with_name("callables.txt").read_text("ascii").split()
REFUSED = "can't be read as weights alone"


def code_cases() -> Iterator[Case]:
    """Pickles that name something that is no data."""
    for full in CALLABLES:
        module, _, name = full.rpartition(".")
        body = p.called(p.named(module, name), p.value("true"))

        def make(path: Path, body: bytes = body) -> None:
            p.write_zip(path, p.dictionary(net=p.dictionary(w=p.tensor()), note=body))

        yield case(f"names {full}", "checkpoint", make, f"it holds {full}, which is not")

    def folder(path: Path) -> bytes:
        return p.value(str(harm(path)))

    def reduced(path: Path) -> bytes:
        return p.called(p.named("posix", "mkdir"), folder(path))

    forms: dict[str, Callable[[Path], bytes]] = {
        "REDUCE": reduced,
        "INST": lambda path: b"(" + folder(path) + b"iposix\nmkdir\n",
        "OBJ": lambda path: b"(" + p.named("posix", "mkdir") + folder(path) + b"o",
        "NEWOBJ": lambda path: p.named("posix", "mkdir") + p.paired(folder(path)) + b"\x81",
        "BUILD": lambda path: p.named("posix", "mkdir") + p.dictionary(a=folder(path)) + b"b",
        "after POP": lambda path: reduced(path) + b"0" + p.dictionary(w=p.tensor()),
        "as a key": lambda path: p.entries([(reduced(path), p.tensor())]),
        "in OrderedDict's state": lambda path: (
            p.called(p.named("collections", "OrderedDict")) + reduced(path) + b"b"
        ),
        "as a storage": lambda path: p.tensor(p.paired(p.value("storage"), reduced(path)) + b"Q"),
        "as a hook": lambda path: p.called(
            p.named("torch._utils", "_rebuild_parameter"), p.tensor(), b"\x89", reduced(path)
        ),
    }
    for form, build in forms.items():

        def as_zip(path: Path, build: Callable[[Path], bytes] = build) -> None:
            p.write_zip(path, build(path))

        def as_legacy(path: Path, build: Callable[[Path], bytes] = build) -> None:
            path.write_bytes(p.legacy(build(path)))

        yield case(f"mkdir by {form}, zip", "checkpoint", as_zip, "posix.mkdir")
        yield case(f"mkdir by {form}, legacy", "checkpoint", as_legacy, "posix.mkdir")
        yield case(f"mkdir by {form}", "training", as_zip, "posix.mkdir")

    def by_stack(path: Path) -> None:
        names = p.value("posix") + p.value("mkdir") + b"\x93"
        p.write_zip(path, p.called(names, folder(path)), protocol=4)

    def by_memo(path: Path) -> None:
        names = p.value("mkdir") + b"q\x05" + p.value("posix") + b"h\x05\x93"
        p.write_zip(path, p.called(names, folder(path)), protocol=4)

    yield case("mkdir by STACK_GLOBAL", "checkpoint", by_stack, "posix.mkdir")
    yield case("mkdir by STACK_GLOBAL and memo", "checkpoint", by_memo, "posix.mkdir")
    yield case("an extension code", "checkpoint", lambda f: p.write_zip(f, b"\x82\x01"), REFUSED)
    plain: dict[str, Make] = {
        "a bare pickle": lambda f: f.write_bytes(p.program(p.value({"w": 1}))),
        "a bare pickle of code": lambda f: f.write_bytes(p.program(reduced(f))),
        "a pickle of protocol 0": lambda f: f.write_bytes(b"cposix\nmkdir\n."),
        "a Python script": lambda f: f.write_bytes(b"#!/usr/bin/env python\nimport os\n"),
    }
    for name, write in plain.items():
        yield case(name, "checkpoint", write, REFUSED)


def greedy_cases() -> Iterator[Case]:
    """Small pickles that are huge to read or to walk through."""
    word, key = p.value, p.tensor()
    # Each is made when its turn comes: they are small as files, but not before they are packed.
    bodies: dict[str, tuple[Callable[[], bytes], str]] = {
        "tuples nested 2^60": (
            lambda: p.dictionary(a=p.doubled(60)),
            "it holds more than|levels deep",
        ),
        "tuples nested 2^60, as a key": (
            lambda: p.entries([(p.doubled(60), word(1))]),
            "took too long",
        ),
        "dicts sharing dicts 3^16": (
            lambda: p.shared_dicts(16, "a", "b", "c"),
            "it holds more than",
        ),
        "nests sharing nests 3^16": (
            lambda: p.shared_dicts(16, "net", "model", "state_dict"),
            "it holds more than",
        ),
        "lists nested 100,000 deep": (lambda: b"]" * 100_000 + b"a" * 99_999, "levels deep"),
        "a dict in itself": (lambda: b"}q\x01" + word("net") + b"h\x01s", "levels deep"),
        "a bytearray of 3 GB": (lambda: b"\x96" + struct.pack("<Q", 3 << 30), "memory"),
        "text of 2 GB": (lambda: b"X" + struct.pack("<I", 1 << 31), "truncated"),
        "text of 2^60 bytes": (lambda: b"\x8d" + struct.pack("<Q", 1 << 60), "truncated"),
        "a number of 300,000 digits": (lambda: b"I" + b"9" * 300_000 + b"\n", "broken"),
        "a number of 2 GB": (lambda: b"\x8b" + struct.pack("<i", (1 << 31) - 1), "truncated"),
        "memo entry 2^31": (lambda: b"Nr" + struct.pack("<I", (1 << 31) - 1), "memory"),
        "bytearray called with 10^12": (
            lambda: p.called(p.named("builtins", "bytearray"), word(10**12)),
            "memory",
        ),
        "one number set a million times": (
            lambda: key + b"q\x010}(" + b"K\x01h\x01" * 1_000_000 + b"u",
            "state dict",
        ),
        "a key of 20 MB": (lambda: p.entries([(word("k" * 20_000_000), key)]), "a name of 2000"),
        "a key of module. 200,000 times": (
            lambda: p.entries([(word("module." * 200_000), key)]),
            "a name of 1400000 characters",
        ),
        "60,000 tensors": (lambda: many_tensors(60_000), "at most 50000 tensors"),
        "a million tensors": (lambda: many_tensors(1_000_000), "it holds more than"),
    }
    for name, (body, says) in bodies.items():

        def make(path: Path, body: Callable[[], bytes] = body) -> None:
            path.write_bytes(archive_of(body()))

        yield case(name, "checkpoint", make, says)

    def nones(count: int) -> Make:
        def make(path: Path) -> None:
            packed = b"\x80\x02(" + b"N" * count + b"l."
            path.write_bytes(p.archive(packed, compression=zipfile.ZIP_DEFLATED))

        return make

    yield case("30 million Nones", "checkpoint", nones(30_000_000), "it holds more than")
    yield case("40 million Nones", "checkpoint", nones(40_000_000), "expected at most 32 MiB")

    def inflating(path: Path) -> None:
        count = 300 << 20
        pickled = p.program(p.dictionary(w=p.tensor(p.storage(numel=count // 4))))
        path.write_bytes(p.archive(pickled, {"0": bytes(count)}, compression=zipfile.ZIP_DEFLATED))

    yield case("a storage of 300 MB, deflated", "checkpoint", inflating, "many times what")


def many_tensors(count: int) -> bytes:
    """One tensor under so many names."""
    names = b"".join(p.value(f"w{n}").replace(b"q\x00", b"") + b"h\x01" for n in range(count))
    return p.tensor() + b"q\x010}(" + names + b"u"


def archive_of(body: bytes) -> bytes:
    """A checkpoint with this body, of protocol 5."""
    return p.archive(p.program(body, 5))


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
        for kind, content in (("zip", archive_of(body)), ("legacy", p.legacy(body))):

            def make(path: Path, content: bytes = content) -> None:
                path.write_bytes(content)

            yield case(f"tensor, {name}, {kind}", "checkpoint", make, says)
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
        content = archive_of(p.dictionary(w=p.tensor(where)))
        yield case(f"storage, {name}", "checkpoint", written(content), says)


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

    yield case("net and model", "checkpoint", with_pairs, "2 that differ, under net and model")

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


def weight_cases() -> Iterator[Case]:
    """Weights that can be read, and that no network should get."""

    def state(change: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**network().state_dict(), **change}

    def first(number: float) -> Tensor:
        value = network().state_dict()["0.weight"].clone()
        value[0, 0, 0, 0] = number
        return value

    shape = (4, 3, 3, 3)
    changes: dict[str, tuple[dict[str, Tensor], str]] = {
        "NaN": ({"0.weight": first(float("nan"))}, "NaN or infinite values: 0.weight"),
        "inf": ({"0.weight": first(float("inf"))}, "NaN or infinite values: 0.weight"),
        "negative variance": ({"1.running_var": -torch.ones(4)}, "negative: 1.running_var"),
        "variances of 16 bits": ({"1.running_var": torch.ones(4, dtype=torch.uint16)}, "uint16"),
        "negative variances of 8 bits": (
            {"1.running_var": torch.full((4,), -1.0).to(torch.float8_e4m3fn)},
            "negative: 1.running_var",
        ),
        "NaN variance": ({"1.running_var": torch.ones(4) * float("nan")}, "values: 1.running_var"),
        "infinite mean": ({"1.running_mean": torch.ones(4) / 0}, "values: 1.running_mean"),
        "whole numbers": ({"0.weight": torch.ones(shape, dtype=torch.int64)}, "got int64"),
        "bytes": ({"0.weight": torch.ones(shape, dtype=torch.uint8)}, "got uint8"),
        "truths": ({"0.weight": torch.ones(shape, dtype=torch.bool)}, "got bool"),
        "complex numbers": ({"0.weight": torch.ones(shape, dtype=torch.complex64)}, "complex64"),
        "a true counter": ({"1.num_batches_tracked": torch.tensor(True)}, "got bool"),
        "three classes": (
            {"3.weight": torch.ones(3, 4), "3.bias": torch.ones(3)},
            r"expected \(10, 4\), got \(3, 4\)",
        ),
        "a tensor more": ({"extra\x1b[2J": torch.ones(1)}, r"unknown: extra\\x1b\[2J"),
        "a shape of petabytes": (
            {"3.weight": torch.ones(1).expand(1 << 40, 4)},
            r"got \(1099511627776, 4\)",
        ),
    }
    for name, (change, says) in changes.items():

        def as_zip(path: Path, change: dict[str, Tensor] = change) -> None:
            torch.save(state(change), path)

        yield case(f"{name}, zip", "network", as_zip, says)
        if "petabytes" not in name:
            content = save(state(change))
            yield case(f"{name}, safetensors", "network", written(content), says)


def good_files() -> dict[str, bytes]:
    """A network in each format, the same bytes each time."""
    tensors = network().state_dict()
    places, storages = {}, {}
    for key, (name, value) in enumerate(tensors.items()):
        dtype = "LongStorage" if value.dtype == torch.int64 else "FloatStorage"
        where = p.storage(str(key), dtype, value.numel())
        shape, stride = tuple(value.shape), value.stride()
        places[name] = (p.value(name), p.tensor(where, shape=shape, stride=stride))
        storages[str(key)] = value.numpy().tobytes()
    body = p.entries(places.values())
    lengths = [value.numel().to_bytes(8, "little") for value in tensors.values()]
    numbers = b"".join(map(bytes.__add__, lengths, storages.values()))
    return {
        "zip": p.archive(p.program(body), storages),
        "legacy": p.legacy(body, tuple(storages), numbers),
        "safetensors": save(tensors),
    }


def mutated_cases(each: int = 30) -> Iterator[Case]:
    """Good files with some bytes changed; a change may also do no harm."""
    for kind, good in good_files().items():
        for seed in range(each):
            make = written(mutate(good, seed))
            yield case(f"mutated {kind} {seed}", "network", make, None)


def mutate(content: bytes, seed: int) -> bytes:
    """The bytes with some changed, most of them near the start, or with some left out."""
    rng = random.Random(seed)
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 8, 32))):
        span = len(changed) if rng.random() < 0.4 else min(len(changed), 200)
        changed[rng.randrange(span)] = rng.choice((0, 1, 127, 255, rng.randrange(256)))
    if rng.random() < 0.2:
        del changed[rng.randrange(len(changed)) :]
    return bytes(changed)


def cases() -> list[Case]:
    """All of them."""
    groups = (
        code_cases,
        greedy_cases,
        tensor_cases,
        archive_cases,
        safetensors_cases,
        weight_cases,
        mutated_cases,
    )
    return [case for group in groups for case in group()]
