"""Code in archives, in arrays and in the formats of other programs, some of them broken on purpose.

Among them are the containers that picklescan and modelscan are tested with.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.hostile import pickling as p
from tests.hostile.case import Case, Make, case
from tests.hostile.pixels import saved
from tests.hostile.scanners import Pickle, code, evaluated

HARMFUL = evaluated(4)
LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"
NOT_OURS = "torch.save did not write it"


def packed(path: Path) -> bytes:
    """What torch.save writes, with harmful code in it."""
    return p.archive(HARMFUL(path))


def zipped(*names: str, compression: int = zipfile.ZIP_STORED) -> Pickle:
    """An archive that holds harmful code under each of the names."""

    def make(path: Path) -> bytes:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as file:
            for name in names:
                file.writestr(zipfile.ZipInfo(name), HARMFUL(path), compression)
        return content.getvalue()

    return make


def changed(make: Pickle, change: Callable[[bytes], bytes]) -> Pickle:
    """The same file after a change."""
    return lambda path: change(make(path))


def patched(signature: bytes, offset: int, value: bytes) -> Callable[[bytes], bytes]:
    """Writes something at an offset into the first header of a kind."""

    def change(content: bytes) -> bytes:
        place = content.index(signature) + offset
        return content[:place] + value + content[place + len(value) :]

    return change


def flagged(make: Pickle, flag: int) -> Pickle:
    """The archive with a flag in both headers of its first member."""
    bits = flag.to_bytes(2, "little")
    return changed(changed(make, patched(LOCAL, 6, bits)), patched(CENTRAL, 8, bits))


def archive_files() -> dict[str, tuple[Pickle, str]]:
    """Zip archives, and what is said of them as checkpoints."""
    top = zipped("data.pkl")
    far = (1 << 20).to_bytes(4, "little")
    return {
        "malicious1.zip": (top, NOT_OURS),
        "malicious1_wrong_ext.zip": (zipped("data.txt"), NOT_OURS),
        "benign_password_protected.zip": (flagged(top, 1), NOT_OURS),
        "password protected": (flagged(packed, 1), "encrypted"),
        **{f"malicious1_0x{n:x}.zip": (flagged(top, n), NOT_OURS) for n in (1, 0x20, 0x40)},
        "flag 0x20": (flagged(packed, 0x20), "patched data"),
        "flag 0x40": (flagged(packed, 0x40), "strong encryption"),
        "flag 0x1 in the local header": (
            changed(packed, patched(LOCAL, 6, b"\1")),
            "builtins.eval",
        ),
        "malicious1_central_directory.zip": (
            changed(top, lambda content: content.replace(b"data.pkl", b"datap.kl", 1)),
            NOT_OURS,
        ),
        "another name in the local header": (
            changed(packed, lambda content: content.replace(b"data.pkl", b"datap.kl", 1)),
            "damaged",
        ),
        "malicious1_crc.zip": (
            changed(top, lambda content: content.replace(b"mkdir", b"rmdir", 1)),
            NOT_OURS,
        ),
        "a wrong checksum": (
            changed(packed, lambda content: content.replace(b"mkdir", b"rmdir", 1)),
            "damaged.*save it anew",
        ),
        "a wrong checksum in the directory": (
            changed(packed, patched(CENTRAL, 16, b"\0\0\0\0")),
            "damaged",
        ),
        "a wrong checksum in the local header": (
            changed(packed, patched(LOCAL, 14, b"\0\0\0\0")),
            "builtins.eval",
        ),
        "a wrong way of packing": (changed(packed, patched(CENTRAL, 10, b"\x63")), "unusual way"),
        "a wrong size": (changed(packed, patched(CENTRAL, 24, far)), "ends in it|damaged"),
        "a wrong place": (changed(packed, patched(CENTRAL, 42, far)), "truncated|damaged|zip"),
        "an archive in an archive": (
            lambda path: p.archive(p.program(p.value(packed(path))), more=(("x.zip", top(path)),)),
            "got a bytes",
        ),
        "a name with a null byte": (
            changed(
                zipped("net/data.pklZ.txt"),
                lambda content: content.replace(b"data.pklZ", b"data.pkl\0"),
            ),
            "builtins.eval",
        ),
        "a name in capitals": (zipped("net/DATA.PKL"), NOT_OURS),
        "a name of Windows": (
            changed(zipped("netXdata.pkl"), lambda content: content.replace(b"netX", b"net\\")),
            NOT_OURS,
        ),
        "a name outside": (zipped("../../data.pkl"), "builtins.eval"),
        "a program before it": (
            changed(packed, lambda content: b"\x7fELF" + bytes(60) + content),
            "begins with",
        ),
        "a pickle before it": (lambda path: HARMFUL(path) + packed(path), NOT_OURS),
        "a comment that is another": (
            lambda path: packed(path)[:-2] + len(top(path)).to_bytes(2, "little") + top(path),
            NOT_OURS + "|zip",
        ),
        "deflated": (zipped("net/data.pkl", compression=zipfile.ZIP_DEFLATED), "builtins.eval"),
    }


def tar(path: Path) -> bytes:
    """What torch.save wrote in its first year: a tar archive with three pickles."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as file:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = len(HARMFUL(path))
            file.addfile(member, io.BytesIO(HARMFUL(path)))
    return content.getvalue()


def seven_zip(path: Path) -> bytes:
    """The start of a 7z archive, and its content as it is."""
    head = struct.pack("<QQI", len(HARMFUL(path)), 0, 0)
    start = b"7z\xbc\xaf\x27\x1c\x00\x04" + zlib.crc32(head).to_bytes(4, "little")
    return start + head + HARMFUL(path)


def layers(path: Path) -> bytes:
    """The description of a Keras model: a layer of code, and one made by a function of Python."""
    made = {"module": "builtins", "class_name": "exec", "config": {"code": code(path)}}
    inner = {"class_name": "Lambda", "config": {"function": code(path)}}
    dense = {"class_name": "Dense", "config": {"units": 8, "kernel_initializer": made}}
    nested = {"class_name": "Functional", "config": {"layers": [inner, dense]}}
    popen = {"module": "subprocess", "class_name": "Popen", "config": {"name": "x"}}
    return json.dumps({"class_name": "Sequential", "config": {"layers": [nested, popen]}}).encode()


def keras(path: Path) -> bytes:
    """A model of Keras 3."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("metadata.json", "{}")
        file.writestr("config.json", layers(path))
        file.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n")
    return content.getvalue()


def field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer."""
    assert len(content) < 1 << 14
    size = bytes([len(content) & 127 | 128, len(content) >> 7])
    return bytes([number << 3 | 2]) + size + content


def saved_model(path: Path) -> bytes:
    """A graph of TensorFlow that reads and writes files and runs Python."""
    operations = ("ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "EagerPyFunc")
    nodes = (field(1, field(1, b"n") + field(2, name.encode())) for name in operations)
    return b"\x08\x01" + field(2, field(2, b"".join(nodes)))


def other_files() -> dict[str, Pickle]:
    """Files of other programs; none begins as a checkpoint does."""
    packers: dict[str, Callable[[bytes], bytes]]
    packers = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}
    heads = {
        "rar": b"Rar!\x1a\x07\x01\x00",
        "zstd": b"\x28\xb5\x2f\xfd",
        "lz4": b"\x04\x22\x4d\x18",
        "joblib's old zlib": b"ZF0x1f",
        "GGUF": b"GGUF\x03\x00\x00\x00",
        "TFLite": b"\x1c\x00\x00\x00TFL3",
        "ONNX": b"\x08\x08\x12\x07pytorch",
        "ExecuTorch": b"\x1c\x00\x00\x00ET12",
        "bad_pytorch.pt": b"\x89PNG\r\n\x1a\n",
        "marshalled code": b"\xe3\x00\x00\x00\x00",
    }
    return {
        "malicious1.7z": seven_zip,
        "tar": tar,
        "tar in gzip": changed(tar, gzip.compress),
        "joblib in zlib": changed(HARMFUL, zlib.compress),
        "unsafe.h5": lambda path: b"\x89HDF\r\n\x1a\n" + bytes(88) + layers(path),
        "saved_model.pb": saved_model,
        "keras_metadata.pb": lambda path: field(1, field(4, layers(path))),
        "fingerprint.pb": lambda path: b"\x08\xd2\xa1\x8c\xb6\x91\xb7\x02",
        "variables.index": lambda path: bytes(8) + HARMFUL(path),
        "object_array.npy": changed(HARMFUL, object_array),
        **{name: changed(HARMFUL, pack) for name, pack in packers.items()},
        **{name: changed(HARMFUL, head.__add__) for name, head in heads.items()},
    }


def object_array(pickled: bytes) -> bytes:
    """An NPY file of Python objects, with this pickle of them."""
    content = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": (1,)}
    np.lib.format.write_array_header_1_0(content, header)
    return content.getvalue() + pickled


def arrays(save: Callable[..., None], dtype: type) -> bytes:
    """An NPZ file with two arrays."""
    content = io.BytesIO()
    save(content, a=np.array([0, 1, 2], dtype), b=np.array([3, 4, 5], dtype))
    return content.getvalue()


def array_files() -> dict[str, tuple[Pickle, str | None]]:
    """Files of NumPy, and what is said of them."""
    objects = np.empty((2, 2), object)
    objects[:] = [(1, 2), (3, 4)]
    return {
        "object_array.npy": (lambda path: saved(objects), "Python objects"),
        "object_array.npy with code": (changed(HARMFUL, object_array), "Python objects"),
        "dns_exfiltration.npy": (
            lambda path: object_array(p.call(4, "ssl", "get_server_certificate", "x.invalid")),
            "Python objects",
        ),
        "unsafe_numpy.npy": (HARMFUL, "begins with"),
        "int_array.npy": (lambda path: saved(np.array([(1, 2), (3, 4)])), None),
        "int_arrays.npz": (lambda path: arrays(np.savez, int), "NPZ"),
        "int_arrays_compressed.npz": (lambda path: arrays(np.savez_compressed, int), "NPZ"),
        "object_arrays.npz": (lambda path: arrays(np.savez, object), "NPZ"),
        "object_arrays_compressed.npz": (
            lambda path: arrays(np.savez_compressed, object),
            "NPZ",
        ),
    }


def writing(build: Pickle) -> Make:
    """Writes the file."""
    return lambda path: path.write_bytes(build(path))


def cases() -> Iterator[Case]:
    """All of them."""
    for name, (build, says) in archive_files().items():
        yield case(f"zip, {name}", "checkpoint", writing(build), says)
    for name, build in other_files().items():
        yield case(f"other format, {name}", "checkpoint", writing(build), "begins with|pickle")
    yield case("other format, unsafe.keras", "checkpoint", writing(keras), NOT_OURS)
    folder = "a folder"
    yield case("other format, a saved_model", "checkpoint", lambda path: path.mkdir(), folder)
    for name, (build, note) in array_files().items():
        yield case(f"numpy, {name}", "array", writing(build), note)
    # The name says nothing.
    for suffix in ("bin", "ckpt", "safetensors", "npy", "png", "txt", "keras"):
        lies = f"net.{suffix}"
        yield case(f"as .{suffix}", "checkpoint", writing(packed), "builtins.eval", lies)
    # What reads no checkpoints reads no pickles either.
    readers = {
        "image": "got none of",
        "mask": "begins with",
        "manifest": "expected JSON",
        "attack": "expected JSON",
        "cell": "expected JSON",
    }
    for reader, says in readers.items():
        yield case("a pickle", reader, writing(HARMFUL), says)
        yield case("a checkpoint with code", reader, writing(packed), f"{says}|zip archive")
