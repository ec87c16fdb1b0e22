"""Checkpoints whose pickles name something that is no data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile import pickling as p
from tests.hostile.case import Case, Make, case, harm

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
