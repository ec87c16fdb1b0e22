"""Modules that were pickled whole, and BackdoorBench's records, with something harmful in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile import pickling as p
from tests.hostile.case import Case, case, harm, written
from tests.hostile.pixels import EPS, png
from tests.hostile.records import array

NUMBERS = p.tensor()


def module(
    parameters: bytes = p.dictionary(weight=NUMBERS),
    buffers: bytes = b"}",
    modules: bytes = b"}",
    **more: bytes,
) -> bytes:
    """A module of a class that is not known, with these things in its state."""
    state = {"_parameters": parameters, "_buffers": buffers, "_modules": modules, **more}
    return p.named("own.code", "Net") + b")\x81" + p.dictionary(**state) + b"b"


def record(**more: bytes) -> bytes:
    """What BackdoorBench saves of an attack."""
    known = {"model_name": p.value("preactresnet18"), "num_classes": p.value(10)}
    return p.dictionary(**{**known, "model": p.dictionary(weight=NUMBERS), **more})


def container(images: bytes) -> bytes:
    """The poisoned images in a record."""
    return record(bd_test=p.dictionary(bd_data_container=p.dictionary(data_dict=images)))


def reduced(path: Path) -> bytes:
    """What an object becomes whose `__reduce__` makes a folder."""
    return p.called(p.named("posix", "mkdir"), p.value(str(harm(path))))


def chain(depth: int) -> bytes:
    """A module in a module, and so on."""
    made = module()
    for _ in range(depth):
        made = module(modules=p.dictionary(a=made))
    return made


def shared(times: int) -> bytes:
    """A module that holds one twice, which holds one twice, and so on."""
    made = module()
    for level in range(times):
        memo = bytes([level + 1])
        both = p.dictionary(a=b"h" + memo, b=b"h" + memo)
        made += b"q" + memo + b"0" + module(modules=both)
    return made


def record_cases() -> Iterator[Case]:
    """Records that say what is no network and no data, and pictures beside them."""
    said: dict[str, tuple[dict[str, bytes], str | None]] = {
        "a name of a module": ({"model_name": p.value(7)}, "model_name: expected text, got 7"),
        "a long name": ({"model_name": p.value("a" * 1001)}, "model_name: expected text"),
        "a billion classes": ({"num_classes": p.value(10**9)}, "num_classes: expected a whole"),
        "true classes": ({"num_classes": b"\x88"}, "num_classes: expected a whole"),
        "a negative size": ({"img_size": p.value([32, -1, 3])}, "img_size.1.: expected a whole"),
        "a size of text": ({"img_size": p.value("32")}, "img_size: expected a list"),
        "data of numbers": ({"clean_data": p.value([1])}, "clean_data: expected text"),
        "a path of numbers": ({"data_path": p.value(1)}, "data_path: expected text"),
        "labels of no class": (
            {"bd_test": p.value({"bd_data_container": {"data_dict": {0: (0, 99, "x")}}})},
            None,
        ),
        "images that are none": ({"bd_test": p.value([1, 2])}, None),
    }
    for name, (more, says) in said.items():

        def write(path: Path, more: dict[str, bytes] = more) -> None:
            p.write_zip(path, record(**more))

        yield case(name, "record", write, says)
    yield case(
        "code beside the images",
        "record",
        lambda path: p.write_zip(path, record(bd_test=reduced(path))),
        "it holds posix.mkdir, which is",
    )
    images: dict[str, tuple[bytes, str]] = {
        "EPS": (EPS, "got none of PNG"),
        "nothing": (b"", "expected an image"),
        "half": (png(16, 16)[:45], "expected an image"),
    }
    for name, (content, says) in images.items():
        yield case(name, "triggered", written(content), says)
    for name, folder in (("its name", "cat"), ("Arabic digits", "\u0663")):
        where = f"bd_test_dataset/{folder}/7.png"
        make = written(png(16, 16))
        yield case(f"a class by {name}", "triggered", make, "by its number", where)

    def table(path: Path) -> None:
        (path.parent / "3").mkdir()
        (path.parent / "3" / "7.png").write_bytes(png(16, 16))
        path.write_text("3/7.png,5\n")

    where = "bd_test_dataset/labels.CSV"
    yield case("a table of other classes", "triggered", table, "no table beside them", where)


def cases() -> Iterator[Case]:
    """All of them."""
    yield from module_cases()
    yield from record_cases()


def module_cases() -> Iterator[Case]:
    """What holds code is refused with its name; what only seems to is read, and not executed."""
    code: dict[str, Callable[[Path], bytes]] = {
        "as an attribute of a module": lambda path: module(hook=reduced(path)),
        "as a parameter": lambda path: module(p.dictionary(weight=reduced(path))),
        "as a buffer": lambda path: module(buffers=p.dictionary(mean=reduced(path))),
        "in a module in a module": lambda path: module(
            modules=p.dictionary(a=module(hook=reduced(path)))
        ),
        "beside a module": lambda path: p.dictionary(model=module(), note=reduced(path)),
        "as the argument of a class": lambda path: (
            p.named("own.code", "Net") + p.paired(reduced(path)) + b"\x81"
        ),
        "as a state": lambda path: p.named("own.code", "Net") + b")\x81" + reduced(path) + b"b",
        "as a class's state": lambda path: (
            p.named("posix", "mkdir") + p.dictionary(_modules=b"}") + b"b"
        ),
        "in a record": lambda path: record(clean_data=reduced(path)),
        "as a record's image": lambda path: container(p.dictionary(a=reduced(path))),
        "as an array's numbers": lambda path: record(
            bd_train=p.called(
                p.named("numpy._core.multiarray", "scalar"),
                p.called(p.named("numpy", "dtype"), p.value("i8")),
                reduced(path),
            )
        ),
    }
    for name, build in code.items():

        def as_zip(path: Path, build: Callable[[Path], bytes] = build) -> None:
            p.write_zip(path, build(path))

        def as_legacy(path: Path, build: Callable[[Path], bytes] = build) -> None:
            path.write_bytes(p.legacy(build(path)))

        yield case(f"mkdir {name}, zip", "checkpoint", as_zip, "it holds posix.mkdir, which is")
        yield case(f"mkdir {name}, legacy", "checkpoint", as_legacy, "it holds posix.mkdir")
        yield case(f"mkdir {name}", "training", as_zip, "it holds posix.mkdir, which is")

    pid = p.paired(p.value("module"), p.named("posix", "mkdir"), p.value("x"), p.value("x")) + b"Q"
    eval_ = p.named("builtins", "eval")
    objects = array(b"A" * 8, (1,), b"O8", text=p.value)
    picture = p.named("PIL.Image", "Image") + b")\x81"
    bodies: dict[str, tuple[bytes, str | None]] = {
        "a record with a function": (record(clean_data=eval_), "it holds builtins.eval"),
        "a record with an object": (
            record(bd_train=p.named("own.code", "Data") + b")\x81"),
            "it holds own.code.Data",
        ),
        "a record with an array of objects": (record(bd_train=objects), "array of 'O8'"),
        "a record with an array of 6 GB": (
            record(bd_train=array(b"", (6_000_000_000,), text=p.value)),
            "6000000000 bytes",
        ),
        "a record that names one array often": (
            record(
                x=array(bytes(1 << 20), (1 << 20,), text=p.value) + b"q\x07",
                y=p.listed(*[b"h\x07"] * 50_000),
            ),
            "more than 400000 values",
        ),
        "a record with a picture that is none": (
            container(p.dictionary(a=picture + p.dictionary(x=eval_) + b"b")),
            "it holds builtins.eval",
        ),
        "a module without tensors": (module(b"}"), "expected a state dict"),
        "an object that is no module": (
            p.named("own.code", "Net") + b")\x81" + p.dictionary(_modules=b"}") + b"b",
            "it holds own.code.Net",
        ),
        "a module 40 deep": (chain(40), "levels deep"),
        "a module twice in one twice, and so on": (shared(28), "more than 50000 tensors"),
        "a module that holds itself": (
            p.named("own.code", "Net")
            + b")\x81q\x09"
            + p.dictionary(_parameters=b"}", _buffers=b"}", _modules=p.dictionary(a=b"h\x09"))
            + b"b",
            "levels deep",
        ),
        "a parameter without a name": (module(p.entries([(p.value((1, 2)), NUMBERS)])), "a name"),
        "a parameter with a long name": (module(p.dictionary(**{"a" * 1001: NUMBERS})), "a name"),
        "a function by the old format's module": (pid + p.value("x") + b"\x85R", "posix.mkdir"),
        # Whoever imports the class runs its code; here it is a name.
        "a module of a class with an evil __setstate__": (module(), None),
        "a module with a function": (module(activation=eval_), None),
    }
    for name, (body, says) in bodies.items():

        def write(path: Path, body: bytes = body) -> None:
            p.write_zip(path, body)

        yield case(name, "checkpoint", write, says)

    def truncated(path: Path) -> None:
        path.write_bytes(p.archive(p.program(record()))[:-200])

    yield case("half a record", "checkpoint", truncated, "can't be read as weights alone")
    yield case(
        "a record whose pickle ends early",
        "checkpoint",
        lambda path: path.write_bytes(p.archive(p.program(record())[:-30])),
        "can't be read as weights alone",
    )
