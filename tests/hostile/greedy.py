"""Checkpoints with small pickles that are huge to read or to walk through."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile import pickling as p
from tests.hostile.case import Case, Make, case


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
            "SIGXCPU: it took too long",
        ),
        "numbers of 100 bits as keys": (
            lambda: p.entries([(word(1 << 100), word(1)), (word(1 << 99), word(1))]),
            "a dict with the keys <int>, <int>",
        ),
        "dicts sharing dicts 3^16": (
            lambda: p.shared_dicts(16, "a", "b", "c"),
            "it holds more than",
        ),
        "nests sharing nests 3^16": (
            lambda: p.shared_dicts(16, "net", "model", "state_dict"),
            "it holds more than",
        ),
        "6561 state dicts that differ": (lambda: nests(8), "several that differ, under net and"),
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
        "60,000 tensors": (lambda: many_tensors(60_000), "more than 50000 tensors"),
        "240,000 references to a tensor of 32 dimensions": (
            lambda: references(240_000),
            "it holds more than",
        ),
        "12,000 references to a tensor of 32 dimensions": (
            lambda: references(12_000),
            "expected a state dict",
        ),
        "a storage named by a list of 16 million": (
            lambda: named_anew(p.storage()),
            "sets attributes of a Storage",
        ),
        "a dtype named by a list of 16 million": (
            lambda: named_anew(p.named("torch", "float32")),
            "sets attributes of a Dtype",
        ),
        "a tensor with attributes": (lambda: named_anew(key), "sets attributes of a Tensor"),
        "a storage with a name of 20,000 characters": (
            lambda: p.dictionary(w=p.tensor(p.storage("k" * 20_000))),
            "a name of 20000 characters",
        ),
        "a million tensors": (lambda: many_tensors(1_000_000), "it holds more than"),
    }
    for name, (body, says) in bodies.items():

        def make(path: Path, body: Callable[[], bytes] = body) -> None:
            path.write_bytes(p.archive(p.program(body(), 5)))

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


def nests(depth: int, number: int = 0) -> bytes:
    """Three dicts in each, and in the innermost ones a tensor that no other has."""
    if depth == 0:
        return p.dictionary(w=p.tensor(p.storage(numel=10_000), offset=number))
    inner = (nests(depth - 1, 3 * number + turn) for turn in range(3))
    keys = map(p.value, ("net", "model", "state_dict"))
    return p.entries(zip(keys, inner, strict=True))


def named_anew(thing: bytes) -> bytes:
    """A thing whose name is replaced by a list of 4000 lists of the same 4000 lists."""
    inner, outer = (b"](" + ref * 4000 + b"e" for ref in (b"h\x00", b"h\x01"))
    names = b"]q\x000" + inner + b"q\x010" + outer + b"q\x020"
    state = b"".join(b"X" + struct.pack("<I", len(n)) + n + b"h\x02" for n in (b"key", b"name"))
    return names + thing + b"}(" + state + b"ub"


def references(count: int) -> bytes:
    """A list of one tensor so many times."""
    tensor = p.tensor(shape=(0, *(1 << 59,) * 31), stride=(1 << 59,) * 32)
    return p.entries([(p.value("x"), b"](" + tensor + b"q\x01" + b"h\x01" * (count - 1) + b"e")])


def many_tensors(count: int) -> bytes:
    """One tensor under so many names."""
    names = b"".join(p.value(f"w{n}").replace(b"q\x00", b"") + b"h\x01" for n in range(count))
    return p.tensor() + b"q\x010}(" + names + b"u"
