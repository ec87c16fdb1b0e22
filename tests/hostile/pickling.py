"""Pickles, put together from their operations, and the files that hold them."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path

MAGIC = 0x1950A86A20F9469CFC6C


def value(content: object) -> bytes:
    """The operations that make a plain value."""
    # Without its header, its end, and what would number it among the values made.
    return pickle.dumps(content, 2)[2:-1]


def named(module: str, name: str) -> bytes:
    """A global."""
    return f"c{module}\n{name}\n".encode()


def called(function: bytes, *arguments: bytes) -> bytes:
    """What a function returns."""
    return function + b"(" + b"".join(arguments) + b"tR"


def listed(*items: bytes) -> bytes:
    """A list."""
    return b"](" + b"".join(items) + b"e"


def paired(*items: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(items) + b"t"


def dictionary(**items: bytes) -> bytes:
    """A dict."""
    return entries((value(key), item) for key, item in items.items())


def entries(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A dict of pairs of operations."""
    return b"}(" + b"".join(key + item for key, item in items) + b"u"


def storage(key: str = "0", dtype: str = "FloatStorage", numel: object = 4) -> bytes:
    """A storage, as torch refers to one."""
    words = [value("storage"), named("torch", dtype), value(key), value("cpu"), value(numel)]
    return paired(*words) + b"Q"


def tensor(
    where: bytes | None = None,
    *,
    offset: object = 0,
    shape: object = (4,),
    stride: object = (1,),
) -> bytes:
    """A tensor, as torch pickles one."""
    return called(
        named("torch._utils", "_rebuild_tensor_v2"),
        storage() if where is None else where,
        *(value(part) for part in (offset, shape, stride, False)),
        called(named("collections", "OrderedDict")),
    )


def call(protocol: int, module: str, name: str, argument: str) -> bytes:
    """A whole pickle that calls a function with a text, as Python writes it in a protocol."""
    if protocol < 4:
        text = b"V%s\n" % argument.encode() if protocol == 0 else value(argument)
        body = called(named(module, name), text)
        return body + b"." if protocol < 2 else program(body, protocol)
    words = (b"\x8c" + bytes([len(word)]) + word.encode() + b"\x94" for word in (module, name))
    body = b"".join(words) + b"\x93\x94" + value(argument) + b"\x85\x94R\x94"
    return program(b"\x95" + (len(body) + 1).to_bytes(8, "little") + body, protocol)


def program(body: bytes, protocol: int = 2) -> bytes:
    """A whole pickle."""
    return b"\x80" + bytes([protocol]) + body + b"."


def archive(
    pickled: bytes,
    storages: dict[str, bytes] | None = None,
    *,
    compression: int = zipfile.ZIP_STORED,
    more: tuple[tuple[str, bytes], ...] = (),
) -> bytes:
    """A file as `torch.save` writes it, with a storage "0" of four numbers by default."""
    members = {"0": bytes(16)} if storages is None else storages
    content = io.BytesIO()
    numbers = {f"net/data/{key}": part for key, part in members.items()}
    whole = [("net/data.pkl", pickled), ("net/version", b"3\n"), *numbers.items(), *more]
    with zipfile.ZipFile(content, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two members of one name are meant
        for name, part in whole:
            # With a date that stays the same.
            file.writestr(zipfile.ZipInfo(name), part, compression)
    return content.getvalue()


def write_zip(path: Path, body: bytes, protocol: int = 2) -> None:
    """Write a checkpoint whose pickle has this body."""
    path.write_bytes(archive(program(body, protocol)))


def legacy(
    body: bytes,
    keys: tuple[str, ...] = ("0",),
    numbers: bytes | None = None,
    *,
    little: bool = True,
    first: tuple[int, bytes] | None = None,
) -> bytes:
    """A file as `torch.save` wrote it before PyTorch 1.6; `first`: the number of one of its five
    pickles, and operations that it begins with."""
    system = {"protocol_version": 1001, "little_endian": little, "type_sizes": {}}
    head = [pickle.dumps(part, 2) for part in (MAGIC, 1001, system)]
    after = (4).to_bytes(8, "little") + bytes(16) if numbers is None else numbers
    pickles = [*head, program(body), pickle.dumps(list(keys), 2)]
    if first is not None:
        number, code = first
        pickles[number] = pickles[number][:2] + code + pickles[number][2:]
    return b"".join([*pickles, after])


def doubled(times: int) -> bytes:
    """A tuple in a tuple, twice at each of so many levels: small to write, huge to walk through."""
    return b")" + b"2\x86" * times


def shared_dicts(times: int, *names: str) -> bytes:
    """A dict that holds one dict under several names, and so on; the last has a tensor."""
    made = dictionary(weight=tensor())
    for level in range(times):
        memo = level + 1
        made += b"q" + bytes([memo])
        made += b"0" + entries((value(name), b"h" + bytes([memo])) for name in names)
    return made
