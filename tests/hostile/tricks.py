"""Pickles that try to get around a reader that knows what is allowed, and not what is forbidden."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from tests.hostile import pickling as p
from tests.hostile.case import Case, case, harm, written
from tests.hostile.scanners import Pickle, ordered

ORDERED = p.named("collections", "OrderedDict")
FLOATS = p.named("torch", "FloatStorage")
# Attributes that lead from something harmless to everything.
CHAINS = (
    "collections OrderedDict.__init__",
    "collections OrderedDict.__reduce_ex__",
    "collections OrderedDict.__class__.__base__.__subclasses__",
    "collections abc.sys.modules",
    "torch Size.__base__",
    "torch os.system",
    "torch float32.__class__",
    "torch._utils _rebuild_tensor_v2.__globals__",
    "torch._utils _rebuild_parameter.__builtins__",
    "torch.serialization _get_layout.__globals__",
    "torch.storage UntypedStorage.from_file",
    "torch._tensor _rebuild_from_type_v2.__code__",
    "builtins set.__class__",
    "builtins bytearray.__subclasshook__",
    "builtins complex.__class__.__base__",
    "_codecs encode.__self__",
    "_codecs lookup",
    "numpy dtype.__new__",
    "numpy.core.multiarray scalar.__self__",
)
# What looks like a name that is allowed.
LOOKALIKES = (
    ("collections ", "OrderedDict"),
    ("collections", "OrderedDict "),
    ("Collections", "OrderedDict"),
    ("collections.", "OrderedDict"),
    ("сollections", "OrderedDict"),
    ("collections", "Ordered\u200bDict"),
    ("collections", "\x1b[2JOrderedDict"),
    ("", ""),
    ("posix\x00collections", "system"),
    ("torch._utils", "_rebuild_tensor_v2\u202e"),
)


def mkdir(form: bytes) -> Pickle:
    """posix.mkdir, called by other operations than REDUCE; `form` follows function and tuple."""
    return lambda path: p.named("posix", "mkdir") + p.paired(p.value(str(harm(path)))) + form


def stacked(module: bytes, name: bytes) -> bytes:
    """A global by STACK_GLOBAL, of anything."""
    return module + name + b"\x93"


def state(of: bytes, **attributes: bytes) -> bytes:
    """Something with attributes set by BUILD, and then a tensor, in which it may matter."""
    return of + p.dictionary(**attributes) + b"b0" + p.dictionary(w=p.tensor())


def bodies() -> dict[str, tuple[bytes, str]]:
    """The operations, and what is said of them in a checkpoint."""
    lie = struct.pack("<Q", 1 << 60)
    broken = "it is broken|truncated|underflow|MARK|must be a type|EXT specifies|memory"
    made = p.tensor() + b"q\x07"
    return {
        **{
            f"attribute {chain}": (
                stacked(*(p.value(word) for word in chain.split())),
                "which is not plain data",
            )
            for chain in CHAINS
        },
        **{
            f"like {module!a} {name!a}": (
                stacked(p.value(module), p.value(name)),
                "which is not plain data",
            )
            for module, name in LOOKALIKES
        },
        "a module that is a number": (stacked(b"K\x2a", p.value("os")), "requires str"),
        "a module that is bytes": (stacked(b"C\x02os", p.value("system")), "requires str"),
        "a module that is a list": (stacked(b"]", p.value("system")), "requires str"),
        "a memo entry that is not there": (b"h\x03h\x00\x93", "Memo value not found"),
        "EXT1": (b"\x82\x01", broken),
        "EXT2": (b"\x83\x01\x00", broken),
        "EXT4": (b"\x84\x01\x00\x00\x00", broken),
        "EXT4, negative": (b"\x84\xff\xff\xff\xff", broken),
        "a storage by text": (b"P0\n", broken),
        "a storage by a number": (b"K\x01Q", broken),
        "a storage with a view": (
            p.tensor(
                p.paired(p.value("storage"), FLOATS, *map(p.value, ("0", "cpu", 4, "os"))) + b"Q"
            ),
            "no storage",
        ),
        "a buffer from outside": (b"\x97", "no .buffers. argument"),
        "a buffer made read-only": (b"N\x98", broken),
        "a frame of 2^60 bytes": (b"\x95" + lie, broken),
        "bytes of 2^60": (b"\x8e" + lie, broken),
        "an unknown operation": (b"\xfe", "invalid load key"),
        "an unknown operation after the call": (ORDERED + b")R\xfe", "invalid load key"),
        "nothing on the stack": (b"", broken),
        "POP of nothing": (b"0", broken),
        "REDUCE of nothing": (b"R", broken),
        "a MARK that stays": (b"(", broken),
        "POP_MARK without MARK": (b"1", broken),
        "DUP of nothing": (b"2", broken),
        "a text called": (p.called(p.value("os.system"), p.value("x")), broken),
        "a storage type called": (p.called(FLOATS, p.value("x")), broken),
        "NEWOBJ of a function": (p.named("torch._utils", "_rebuild_tensor") + b")\x81", broken),
        "NEWOBJ_EX of a function": (
            p.named("torch._utils", "_rebuild_tensor") + b")}\x92",
            broken,
        ),
        "NEWOBJ_EX with a keyword": (
            ORDERED + b")" + p.dictionary(a=p.value(1)) + b"\x92",
            "state",
        ),
        "APPEND to a tensor": (made + p.value(1) + b"a", broken),
        "SETITEM of a tensor": (made + p.value(1) + p.value(2) + b"s", broken),
        "ADDITEMS to a dict": (b"}(" + p.value(1) + b"\x90", broken),
        "BUILD of a type": (state(FLOATS, name=p.value("os.system")), "sets attributes of a Dtype"),
        "BUILD of a tensor's shape": (
            made + p.dictionary(shape=p.value([1 << 62])) + b"b0" + p.dictionary(w=b"h\x07"),
            "sets attributes of a Tensor",
        ),
        "BUILD of a tensor's storage": (
            made + p.dictionary(storage=p.value("os")) + b"b0" + p.dictionary(w=b"h\x07"),
            "sets attributes of a Tensor",
        ),
        "BUILD of a class": (ORDERED + p.dictionary(items=p.value(1)) + b"b", broken),
        "BUILD of a function": (
            p.named("torch._utils", "_rebuild_tensor_v2") + p.dictionary(__code__=b"N") + b"b",
            "got a function",
        ),
        "BUILD with slots": (
            made + b"N" + p.dictionary(dtype=p.value("os")) + b"\x86b0" + p.dictionary(w=b"h\x07"),
            "sets attributes of a Tensor",
        ),
        "a call in a call": (
            p.called(
                p.named("torch._tensor", "_rebuild_from_type_v2"),
                p.named("builtins", "bytearray"),
                b"N",
                p.paired(p.value(10**12)),
                b"N",
            ),
            "memory",
        ),
        **{
            f"bytes by the codec {codec}": (
                p.called(p.named("_codecs", "encode"), p.value("x"), p.value(codec)),
                "unknown encoding",
            )
            for codec in ("rot13", "zlib_codec", "idna", "\x1b[2J")
        },
    }


def cases() -> Iterator[Case]:
    """Each in a checkpoint; some in the other pickles of PyTorch's old format."""
    for name, (body, says) in bodies().items():
        content = p.archive(p.program(body, 5))
        yield case(name, "checkpoint", written(content), says)
    for name, form in {"NEWOBJ": b"\x81", "NEWOBJ_EX": b"}\x92", "REDUCE": b"R"}.items():
        build = mkdir(form)

        def calls(path: Path, build: Pickle = build) -> None:
            path.write_bytes(p.archive(p.program(build(path), 4)))

        yield case(f"mkdir by {name} of protocol 4", "checkpoint", calls, "posix.mkdir")
    for protocol in (6, 255):
        content = p.archive(p.program(p.dictionary(w=p.tensor()), protocol))
        yield case(f"protocol {protocol}", "checkpoint", written(content), "protocol")
    whole = p.program(p.dictionary(w=p.tensor()))
    yield case("no end", "checkpoint", written(p.archive(whole[:-1])), "broken|ran out")

    def followed(path: Path) -> None:
        path.write_bytes(p.archive(whole + ordered(4)(path)))

    # What stands after its end is not read, here as elsewhere.
    yield case("a second pickle after the first", "checkpoint", followed, None)
    for number in range(5):

        def legacy(path: Path, number: int = number) -> None:
            run = mkdir(b"R0")(path)
            path.write_bytes(p.legacy(p.dictionary(w=p.tensor()), first=(number, run)))

        # Only the first is fixed to the byte, so that is how the format is told.
        says = "torch.save did not write it" if number == 0 else "posix.mkdir"
        yield case(f"code in pickle {number} of the old format", "checkpoint", legacy, says)
