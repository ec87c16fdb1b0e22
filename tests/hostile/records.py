"""Manifests, results of cells, and data sets."""

from __future__ import annotations

import json
import math
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from awm_defense.files.together import UNFINISHED
from awm_defense.reproduce.grid import cell_path
from tests.hostile import pickling as p
from tests.hostile.case import CELL, CURVE, PLACES, SHARES, Case, Make, case, harm, written
from tests.hostile.pixels import EPS, png, saved

ENTRY: dict[str, Any] = {
    "arch": "small_vgg",
    "dataset": "cifar10",
    "num_classes": 10,
    "attack": "trojan_sq",
    "mapping": "all-to-one",
    "target": 3,
    "trigger": {"image": "trigger.png", "mode": "replace", "mask": "mask.npy"},
}
# What stands where something else belongs.
ODD: tuple[object, ...] = ([], {}, True, 8.5, "8", 1e20, -1, 10**9)
# A name in a manifest, what stands there, and what is said of it.
Change = tuple[str, tuple[object, ...], str]
NO_INT = "expected a whole number"


def changed(name: str, value: object) -> dict[str, Any]:
    """The entry with something else under a name; "trigger.mode" is a name, too."""
    entry = json.loads(json.dumps(ENTRY))
    place = entry
    *outer, last = name.split(".")
    for word in outer:
        place = place[word]
    place[last] = value
    return entry


def as_json(content: object) -> Make:
    """Writes JSON."""

    return lambda path: path.write_text(json.dumps(content))


def manifest_cases() -> Iterator[Case]:
    """Entries of other types, and JSON that is none."""
    alone: tuple[Change, ...] = (
        ("arch", ([], {}, True, 3, None), "arch: expected text"),
        ("dataset", ([], {}, True, 3, None), "dataset: expected text"),
        ("attack", ([], {}, True, 3, None), "attack: expected text"),
        ("num_classes", (*ODD, None, 0, 1, 10**6), f"num_classes: {NO_INT} from 2 to 100000"),
        ("target", ODD, f"target: {NO_INT}"),
        ("poison_rate", ([], "1", True, 2, -1), "poison_rate: expected a number"),
        ("plan", ([], 3, None, {"epochs": []}), "plan.*: expected"),
        ("compute", ([], 3, None, {"bf16": 3}, {"bf17": True}), "compute.*: expected"),
        ("acc", ([], "9", 101, -1, True), "acc: expected a number from 0 to 100"),
    )
    for name, values, says in alone:
        for value in values:
            yield case(f"{name} {value!r}", "manifest", as_json(changed(name, value)), says)
    with_attack: tuple[Change, ...] = (
        ("target", (10, 99_999, None), "target"),
        ("mapping", ([], "one-to-all", None, True), "mapping"),
        ("attack", ("", "nonsense", "\x1b[2J"), "attack: expected one of"),
        ("trigger", ([], 3, None, "trigger.png"), "trigger: expected an object"),
        ("trigger.image", ([], 3, None, True, {}), "trigger.image: expected text"),
        ("trigger.mask", ([], 3, None, True), "trigger.mask: expected text"),
        ("trigger.field", ([], 3, None, True), "trigger.field: expected text"),
        ("trigger.mode", ([], 3, True, "multiply"), "trigger.mode: expected"),
        ("trigger.opacity", ([], "1", True, -0.1, 1.5, 1e20), "trigger.opacity: expected a number"),
        ("trigger.image", ("../../../etc/passwd",), "passwd: no such file"),
        ("trigger.image", ("", ".", "..", "/"), "got a folder|no such file"),
        ("trigger.image", ("a\x00b",), r"a\\x00b: can't be opened"),
        ("trigger.image", ("n" * 999,), "can't be opened"),
        ("trigger.image", ("\x1b[2J",), r"\\x1b\[2J: no such file"),
    )
    for name, values, says in with_attack:
        for value in values:
            if (name, value) == ("mapping", None):
                says = "mapping: expected text"
            make = with_files(changed(name, value))
            yield case(f"{name} {str(value)[:20]!r} {type(value).__name__}", "attack", make, says)
    for lacking in ("attack", "target", "num_classes"):
        entry = {key: value for key, value in ENTRY.items() if key != lacking}
        yield case(f"no {lacking}", "attack", with_files(entry), f"lacks '{lacking}'")
    pipe = "expected a regular file, got a named pipe"
    for key, name, make in (
        ("image", "trigger.png", os.mkfifo),
        ("mask", "mask.npy", os.mkfifo),
        ("field", "field.npy", os.mkfifo),
    ):
        entry = changed(f"trigger.{key}", name)
        yield case(f"{key} is a named pipe", "attack", with_files(entry, {name: make}), pipe)
    other: dict[str, tuple[dict[str, Make], str]] = {
        "trigger is EPS": ({"trigger.png": written(EPS)}, "got none of PNG"),
        "trigger of 64x64": ({"trigger.png": written(lambda: png(64, 64))}, "expected shape"),
        "mask of 10^30": ({"mask.npy": written(saved(np.full((3, 32, 32), 1e30)))}, r"in \[0,1\]"),
        "mask of 2x2": ({"mask.npy": written(saved(np.ones((3, 2, 2))))}, "expected shape"),
    }
    for name, (files, says) in other.items():
        yield case(name, "attack", with_files(ENTRY, files), says)
    for name, field, says in (
        ("of 10^30", np.full((32, 32, 2), 1e30), "numbers from -1 to 1"),
        ("of -5", np.full((32, 32, 2), -5.0), "numbers from -1 to 1.* got -5 to -5"),
        ("of pixels", np.full((3, 32, 32), 0.5), r"\(H,W,2\)"),
        ("of nothing", np.zeros((32, 32, 0)), r"\(H,W,2\)"),
    ):
        entry = {**ENTRY, "attack": "wanet", "trigger": {"field": "field.npy"}}
        make = with_files(entry, {"field.npy": written(saved(field))})
        yield case(f"a field {name}", "attack", make, f"field.npy: .*{says}")
    texts: dict[str, tuple[bytes | Callable[[], bytes], str]] = {
        "nothing": (b"", "expected JSON"),
        "zeros": (bytes(100), "expected JSON"),
        "not UTF-8": (b'{"arch": "\xff"}', "not UTF-8"),
        "UTF-16": ('{"arch": 1}'.encode("utf-16"), "not UTF-8"),
        "half": (b'{"arch": "small', "expected JSON"),
        "two objects": (b"{}{}", "expected JSON"),
        "a list": (b"[1, 2]", "expected a JSON object, got a list"),
        "null": (b"null", "got a NoneType"),
        "a number": (b"3", "got a int"),
        "a pickle": (b"\x80\x04cos\nsystem\n.", "expected JSON"),
        "a name twice": (b'{"target": 1, "target": 2}', "each name once, got target again"),
        "NaN": (b'{"target": NaN}', "finite numbers, got NaN"),
        "Infinity": (b'{"target": -Infinity}', "finite numbers"),
        "1e999": (b'{"target": 1e999}', "finite numbers, got 1e999"),
        "300,000 digits": (b'{"target": ' + b"9" * 300_000 + b"}", "at most 20 digits, got 300000"),
        "300,000 digits after a point": (b'{"target": 0.' + b"9" * 300_000 + b"}", "target"),
        "100,000 deep": (b"[" * 100_000, "levels"),
        "100,000 deep, closed": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "levels"),
        "30 deep": (b'{"a":' + b"[" * 30 + b"]" * 30 + b"}", "at most 20 levels"),
        "5 MiB": (lambda: b'{"arch": "' + b"a" * (5 << 20) + b'"}', "at most 4 MiB"),
        "a long text": (lambda: b'{"arch": "' + b"a" * (3 << 20) + b'"}', "arch: expected text"),
        "escapes": (rb'{"target": "\u001b[2J\u0007"}', r"\\x1b"),
        "half a surrogate": (rb'{"target": "\ud800"}', "target"),
    }
    for name, (content, says) in texts.items():
        yield case(f"JSON, {name}", "manifest", written(content), says)


def with_files(entry: object, files: dict[str, Make] | None = None) -> Make:
    """Writes a manifest, and the files of its trigger beside it."""

    def make(path: Path) -> None:
        as_json(entry)(path)
        good = {
            "trigger.png": written(lambda: png(32, 32)),
            "mask.npy": written(saved(np.ones((3, 32, 32)))),
        }
        for name, write in {**good, **(files or {})}.items():
            write(path.with_name(name))

    return make


def cell_cases() -> Iterator[Case]:
    """Results that `awm reproduce` finds in its folder."""
    good = {"model_sha256": "0", "recipe": None, "device": "CPU", "metrics": {"acc": 1.0}}
    good |= asdict(CELL)
    changes: dict[str, object] = {
        "model_sha256": [],
        "recipe": [],
        "device": {},
        "metrics": [1],
        "curve": 3,
        "shares": {"a": 1},
    }
    for name, value in changes.items():
        yield case(f"{name} {value!r}", "cell", as_json({**good, name: value}), f"{name}: expected")
    for name, value in {
        "metrics": {"acc": "9"},
        "recipe": {"name": "official", "tau": []},
        "curve": [{"acc": []}] * 10,
    }.items():
        yield case(f"{name} {value!r}", "cell", as_json({**good, name: value}), f"{name}.*expected")
    for number in (12_345, -7, math.inf, -math.inf, math.nan, 10**19, 1.7e308, True):
        entry = {**good, "metrics": {"acc": number}}
        yield case(f"acc {number}", "cell", as_json(entry), "metrics.acc: expected a number from 0")
    for name, value, says in (
        ("metrics", {"asr": 1.0}, "metrics: lacks 'acc'"),
        ("recipe", {}, "recipe: lacks 'name'"),
        ("recipe", {"\x1b[31m" * 50: "x"}, "recipe: lacks 'name'"),
    ):
        yield case(f"{name} {value!r}", "cell", as_json({**good, name: value}), says)
    for cell, name, value, says in (
        (CURVE, "curve", [{"acc": 1.0}], "curve: expected at least 10 values, got 1"),
        (CURVE, "curve", [{"acc": 1.0}] * 9 + [{}], r"curve\[9\]: lacks 'acc'"),
        (CURVE, "metrics", {"acc": 1.0}, "lacks 'curve'"),
        (SHARES, "shares", [], "shares: expected at least 2 values, got 0"),
        (SHARES, "shares", [math.nan] * 10, r"shares\[0\]: expected a number from 0 to 100"),
        (SHARES, "metrics", {"acc": 1.0}, "lacks 'shares'"),
    ):
        lies = str(cell_path(Path(), cell))
        make = as_json({**good, name: value})
        yield case(f"{cell.method}, {name} {value!r}", "cell", make, says, lies)
    for name, value in (
        *(("arch", "resnet18"), ("attack", "wanet"), ("n", None), ("n", True), ("seed", 0.0)),
        *(("method", "default"), ("limit", 50), ("limit", "\x1b[2J")),
    ):
        says = f"named after, with {name} .*, got {name} "
        yield case(f"{name} {value!r} of another", "cell", as_json({**good, name: value}), says)
    entry = {key: value for key, value in good.items() if key != "limit"}
    yield case("no limit", "cell", as_json(entry), "with limit None, got no limit")
    for lacking in ("model_sha256", "recipe", "device", "metrics"):
        entry = {key: value for key, value in good.items() if key != lacking}
        yield case(f"no {lacking}", "cell", as_json(entry), f"lacks '{lacking}'")
    yield case("deep", "cell", written(b"[" * 100_000), "levels")
    yield case("a list", "cell", as_json([]), "JSON object")


def array(
    numbers: bytes,
    shape: object,
    code: bytes = b"u1",
    state: object = None,
    *,
    text: Callable[[bytes], bytes] | None = None,
) -> bytes:
    """An array with a dtype of this code and state, by default as Python 2 pickled it."""
    text = text or old
    made = p.called(
        p.named("numpy.core.multiarray", "_reconstruct"),
        p.named("numpy", "ndarray"),
        p.value((0,)),
        text(b"b"),
    )
    dtype = p.called(p.named("numpy", "dtype"), text(code), p.value(0), p.value(1))
    dtype += p.value((3, "|", None, None, None, -1, -1, 0) if state is None else state) + b"b"
    content = p.paired(p.value(1), p.value(shape), dtype, b"\x89", text(numbers))
    return made + content + b"b"


def old(text: bytes) -> bytes:
    """Bytes as Python 2 pickled them."""
    return b"T" + len(text).to_bytes(4, "little") + text


def batch(data: bytes, labels: bytes) -> bytes:
    """A batch of CIFAR-10."""
    return p.program(p.entries([(old(b"data"), data), (old(b"labels"), labels)]))


GOOD_BATCH = batch(array(bytes(3072), (1, 3072)), p.value([0]))


def with_batches(content: bytes | Callable[[Path], bytes]) -> Make:
    """Writes the first batch, and others that are good."""

    def make(path: Path) -> None:
        for number in range(1, 6):
            path.with_name(f"data_batch_{number}").write_bytes(GOOD_BATCH)
        path.with_name("test_batch").write_bytes(GOOD_BATCH)
        path.write_bytes(content(path) if callable(content) else content)

    return make


def report_cases() -> Iterator[Case]:
    """What lies where a report is to be written: read, to see whose it is."""
    no_report = "is of no result that awm wrote"
    files: dict[str, Make] = {
        "64 MiB of objects": written(lambda: b"[" + b"{}," * 22_000_000 + b"{}]"),
        "objects in an object": written(lambda: b'{"a":[' + b'{"a":1},' * 900_000 + b"0]}"),
        "65 MiB": written(lambda: bytes(65 << 20)),
        "a named pipe": os.mkfifo,
        "a list": as_json([]),
        "another object": as_json({"a": 1}),
    }
    for name, make in files.items():
        yield case(name, "report", make, no_report)

    def beside(make: Make) -> Make:
        """Writes what a kill seems to have left, beside a report of someone else."""

        def both(path: Path) -> None:
            make(path)
            path.with_name(PLACES["report"]).write_text("{}")

        return both

    name, digest = PLACES["report"], sha256(b"{}").hexdigest()
    marks: dict[str, Make] = {
        "nothing": written(b""),
        "a named pipe": os.mkfifo,
        "65 MiB": written(lambda: bytes(65 << 20)),
        "a list": as_json([digest]),
        "digests that are none": as_json({name: [None, 3, {}]}),
        "text": as_json({name: digest}),
        "the digest of another file": as_json({"a": [digest], f"x/{name}": [digest]}),
    }
    for what, make in marks.items():
        where = UNFINISHED.format(name)
        yield case(f"a mark of {what}", "report", beside(make), no_report, where)


def cifar10_cases() -> Iterator[Case]:
    """Batches that do harm to NumPy, take memory, or hold no images."""
    one = array(bytes(3072), (1, 3072))
    fields = (3, "|", None, ("a",), {"a": ("O", 0)}, 8, 8, 63)
    files: dict[str, tuple[bytes | Callable[[Path], bytes], str]] = {
        # With NumPy's own dtype, the bytes would be taken as the address of an object.
        "a dtype with an object": (batch(array(b"A" * 8, (1,), b"V8", fields), p.value([0])), "V8"),
        "u1 with an object": (batch(array(b"A" * 8, (8,), b"u1", fields), p.value([0])), "fields"),
        "objects": (batch(array(b"A" * 8, (1,), b"O8"), p.value([0])), "O8"),
        "an array of 6 GB": (batch(array(b"", (6_000_000_000,)), p.value([0])), "6000000000 bytes"),
        "an array of 2^80": (batch(array(b"", (1 << 40, 1 << 40)), p.value([0])), "bytes with 0"),
        "a negative shape": (batch(array(bytes(4), (-2, -2)), p.value([0])), "shape is none"),
        "a shape of text": (batch(array(bytes(4), "4"), p.value([0])), "shape is none"),
        "no shape": (batch(array(bytes(4), None), p.value([0])), "broken"),
        "floats": (batch(array(bytes(3072), (768,), b"f4"), p.value([0])), "f4"),
        "numbers of two bytes": (
            batch(array(bytes(6144), (1, 3072), b"i2"), p.value([0])),
            "array of bytes",
        ),
        "a column an image": (
            batch(array(bytes(3072), (3072, 1)), p.value([0])),
            r"\(3072, 1\) for 1",
        ),
        "colours last": (batch(array(bytes(3072), (1, 32, 32, 3)), p.value([0])), "for 1 labels"),
        "half an image": (batch(array(bytes(1536), (1, 1536)), p.value([0])), "for 1 labels"),
        "more labels than images": (batch(one, p.value([0, 1])), "for 2 labels"),
        "no images": (p.program(p.entries([(old(b"labels"), p.value([0]))])), "lacks 'data'"),
        "no labels": (p.program(p.entries([(old(b"data"), one)])), "lacks 'labels'"),
        "labels of text": (batch(one, p.value(["0"])), "labels: expected"),
        "labels of floats": (batch(one, p.value([0.0])), "labels: expected"),
        "nested labels": (batch(one, p.value([[0]])), "labels: expected"),
        "a true label": (batch(one, p.value([True])), "labels: expected"),
        "label 10": (batch(one, p.value([10])), "beyond 9"),
        "label -1": (batch(one, p.value([-1])), "labels: expected"),
        "label 2^70": (batch(one, p.value([1 << 70])), "labels: expected"),
        "labels are None": (batch(one, b"N"), "labels: expected"),
        "labels of two dimensions": (batch(one, array(bytes(1), (1, 1))), "labels: expected"),
        "data is a list": (batch(p.value([0] * 3072), p.value([0])), "array of bytes"),
        "data is None": (batch(b"N", p.value([0])), "array of bytes"),
        "a list": (p.program(p.value([1])), "expected a dict"),
        "a number": (p.program(p.value(1)), "expected a dict"),
        "nothing": (b"", "CIFAR-10 batch"),
        "zeros": (bytes(100), "CIFAR-10 batch"),
        "a checkpoint": (p.archive(p.program(p.dictionary(w=p.tensor()))), "CIFAR-10 batch"),
        "half": (batch(one, p.value([0]))[:2000], "CIFAR-10 batch"),
        "tuples nested 2^60, as a key": (p.program(p.entries([(p.doubled(60), b"N")])), "too long"),
        "a list in itself": (p.program(b"]q\x01h\x01a"), "expected a dict"),
        "a bytearray of 3 GB": (p.program(b"\x96" + (3 << 30).to_bytes(8, "little"), 5), "memory"),
        "a tensor": (p.program(p.tensor()), "torch.*which is not plain data"),
        "numpy.load": (p.program(p.called(p.named("numpy", "load"), p.value("x"))), "numpy.load"),
        "mkdir": (
            lambda path: p.program(p.called(p.named("posix", "mkdir"), p.value(str(harm(path))))),
            "posix.mkdir",
        ),
        "bytes by another codec": (
            p.program(p.called(p.named("_codecs", "encode"), p.value("x"), p.value("zip"))),
            "unknown encoding",
        ),
        "frames of protocol 5": (
            pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0]}, 5),
            "_frombuffer|not plain data",
        ),
    }
    for name, (content, says) in files.items():
        yield case(name, "cifar10", with_batches(content), says)

    def pipe(path: Path) -> None:
        with_batches(b"")(path)
        path.unlink()
        os.mkfifo(path)

    yield case("a named pipe", "cifar10", pipe, "lacks data_batch_1")

    empty = batch(array(b"", (0, 3072)), p.value([]))
    test = "cifar-10-batches-py/test_batch"
    yield case("no test image", "cifar10", with_batches(empty), "at least one image in test", test)

    def sparse(path: Path) -> None:
        with_batches(b"")(path)
        os.truncate(path, 3 << 30)

    yield case("3 GB of nothing", "cifar10", sparse, "at most 128 MiB")


HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
IMAGE = "GTSRB/Final_Training/Images/00000/0.ppm"


def with_signs(csv: bytes | None = None, image: Make | None = None) -> Make:
    """Writes the layout of GTSRB, with this list of images or this image in it."""

    def make(path: Path) -> None:
        root = next(folder.parent for folder in path.parents if folder.name == "GTSRB")
        list_file, picture = root / PLACES["gtsrb"], root / IMAGE
        test = root / "GTSRB/Final_Test/Images"
        for folder in (list_file.parent, test):
            folder.mkdir(parents=True, exist_ok=True)
        line = f"{HEADER}0.ppm;40;30;5;5;30;25;0\n"
        for where in (list_file.parent, test):
            Image.new("RGB", (40, 30)).save(where / "0.ppm")
        list_file.write_bytes(line.encode() if csv is None else csv)
        (root / "GTSRB/GT-final_test.csv").write_text(line)
        if image is not None:
            picture.unlink()
            image(picture)

    return make


def gtsrb_cases() -> Iterator[Case]:
    """Lists of images, and images."""

    def line(text: str) -> bytes:
        return (HEADER + text + "\n").encode("utf-8")

    lists: dict[str, tuple[bytes, str | None]] = {
        "not ASCII": (line("é.ppm;40;30;5;5;30;25;0"), "expected the columns"),
        "a null byte": (line("0.ppm\x00;40;30;5;5;30;25;0"), "expected|can't be opened"),
        "a field of 200 kB": (line("a" * 200_000 + ";40;30;5;5;30;25;0"), "expected the columns"),
        "a number of 5000 digits": (line("0.ppm;40;30;5;5;30;25;" + "9" * 5000), "expected"),
        "a million empty lines": ((HEADER + ";\n" * 1_000_000).encode(), "expected the columns"),
        "2 million columns, 60,000 short lines": (
            (HEADER[:-1] + ";c" * 2_000_000 + "\n" + "0.ppm;40;30;5;5;3;25;0\n" * 60_000).encode(),
            "named twice",
        ),
        "no columns": (b"", "expected the columns"),
        "200,000 images": ((HEADER + "0.ppm;1;1;5;5;9;9;0\n" * 200_000).encode(), "at most 100000"),
        "an image twice": ((HEADER + "0.ppm;1;1;5;5;9;9;0\n" * 2).encode(), "named twice"),
        "no image": (HEADER.encode(), "Final_Training/Images: expected at least one image"),
        "fewer columns": (line("0.ppm;40"), "expected the columns"),
        "more columns": (line("0.ppm;40;30;5;5;30;25;0;1;2"), None),
        "only commas": (b"Filename,ClassId\n0.ppm,0\n", "expected the columns"),
        "class 43": (line("0.ppm;40;30;5;5;30;25;43"), "a class from 0 to 42"),
        "another class than its folder's": (
            line("0.ppm;40;30;5;5;30;25;5"),
            "expected images of class 0, as its folder is called, got one of class 5",
        ),
        "class -1": (line("0.ppm;40;30;5;5;30;25;-1"), "a class from 0 to 42"),
        "class 1.5": (line("0.ppm;40;30;5;5;30;25;1.5"), "expected the columns"),
        "no file name": (line(";40;30;5;5;30;25;0"), "got a folder"),
        "a path": (line("../../../../etc/passwd;40;30;5;5;30;25;0"), "passwd: no such file"),
        "escapes": (line("\x1b[2J.ppm;40;30;5;5;30;25;0"), r"\\x1b\[2J.ppm: no such file"),
        "region of 10^9 pixels": (line("0.ppm;40;30;0;0;1000000000;1000000000;0"), "a region in"),
        "region of no width": (line("0.ppm;40;30;5;5;5;25;0"), "a region in"),
        "region the wrong way": (line("0.ppm;40;30;30;25;5;5;0"), "a region in"),
        "negative region": (line("0.ppm;40;30;-5;5;30;25;0"), "a region in"),
    }
    for name, (content, says) in lists.items():
        yield case(f"list, {name}", "gtsrb", with_signs(content), says)
    images: dict[str, tuple[Make, str]] = {
        "EPS": (written(EPS), "got none of PNG"),
        "nothing": (written(b""), "got none of PNG"),
        "half": (written(b"P6 40 30 255\n" + bytes(99)), "an image"),
        "a named pipe": (os.mkfifo, "got a named pipe"),
        "a folder": (Path.mkdir, "got a folder"),
        "13000x13000": (written(lambda: png(13_000, 13_000, bits=1)), "at most 1024x1024"),
        "1024x1025": (written(lambda: png(1024, 1025)), "at most 1024x1024"),
        "5 MiB": (written(lambda: png(40, 30) + bytes(5 << 20)), "at most 4 MiB"),
    }
    for name, (make, says) in images.items():
        yield case(f"image, {name}", "gtsrb", with_signs(image=make), says, IMAGE)

    def pipe(path: Path) -> None:
        with_signs()(path)
        path.unlink()
        os.mkfifo(path)

    yield case("list is a named pipe", "gtsrb", pipe, "got a named pipe")


def cases() -> list[Case]:
    """All of them."""
    groups = (manifest_cases, cell_cases, report_cases, cifar10_cases, gtsrb_cases)
    return [case for group in groups for case in group()]
