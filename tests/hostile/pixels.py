"""Images and arrays: other formats, broken ones, and ones that are large only when decoded."""

from __future__ import annotations

import functools
import io
import os
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image

from tests.hostile.case import Case, Make, case, harm, written
from tests.hostile.checkpoints import mutate

# A program, in PostScript. Pillow would start another one, Ghostscript, to run it.
EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 32 32
%%Pages: 1
%%EndComments
showpage
%%EOF
"""


def png(width: int, height: int, *, bits: int = 8, packed: bytes | None = None) -> bytes:
    """A grey PNG, all black unless its numbers are given."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + crc

    if packed is None:
        packer = zlib.compressobj(9)
        line = bytes(1 + (width * bits + 7) // 8)
        packed = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    header = struct.pack(">2I5B", width, height, bits, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def picture(kind: str, size: int = 32) -> bytes:
    """A picture of noise in a format."""
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def converted(mode: str, kind: str, transparent: int = 255) -> bytes:
    """A picture of that mode; where it has an alpha channel, one pixel of it is `transparent`."""
    image = Image.new(mode, (32, 32), None)
    if mode.endswith("A"):
        image.putalpha(255)
        image.putpixel((3, 3), (200,) * (len(mode) - 1) + (transparent,))
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def progressive(times: int = 200_000, side: int = 1024) -> bytes:
    """A JPEG that repeats its last pass over all pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * times + whole[-2:]


def after_start(kind: str, piece: bytes, times: int, start: int) -> bytes:
    """A picture with a piece so many times after its first bytes."""
    whole = picture(kind, 16)
    return whole[:start] + piece * times + whole[start:]


def tiff_of_one_part(tags: int = 4000, size: int = 8 << 20) -> bytes:
    """A TIFF whose many tags all hold the same 8 MiB."""
    entries = [(256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8)]
    entries += [(300 + number, 7, size, 8) for number in range(tags)]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<2H2I", *entry) for entry in entries) + bytes(4)
    return b"II*\x00" + struct.pack("<I", 8 + size) + bytes(size) + directory


def deep(kind: str) -> bytes:
    """A picture in colour of sixteen bits a channel, of which Pillow makes eight."""
    if kind == "PPM":
        return b"P6 2 2 65535\n" + bytes(range(24))
    if kind == "plain PPM":
        return b"P3 1 1 65535\n255 256 65535\n"
    if kind.startswith("PNG"):
        colour = {"PNG": 2, "PNG with alpha": 6, "PNG, grey with alpha": 4}[kind]
        row = bytes(1) + b"\xff\xff" * {2: 3, 6: 4, 4: 2}[colour] * 2
        whole = png(2, 2, bits=16, packed=zlib.compress(row * 2))
        header = whole[12:25] + bytes([colour]) + whole[26:29]
        return whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:]
    order = "<" if kind == "TIFF" else ">"
    fields = [(256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 3, 122), (259, 3, 1, 1), (262, 3, 1, 2)]
    fields += [(273, 4, 1, 128), (277, 3, 1, 3), (278, 3, 1, 2), (279, 4, 1, 24)]
    entries = b"".join(
        struct.pack(
            order + ("2HIH2x" if code == 3 and count == 1 else "2H2I"), tag, code, count, value
        )
        for tag, code, count, value in fields
    )
    start = (b"II*\x00" if order == "<" else b"MM\x00*") + struct.pack(order + "IH", 8, len(fields))
    return (
        (start + entries + bytes(4)).ljust(122) + struct.pack(order + "3H", 16, 16, 16) + bytes(24)
    )


def bomb_cases() -> Iterator[Case]:
    """Small pictures in files that take long to decode, or much memory."""
    comment = b"!\xfe" + b"\x01a" * 3_000_000 + b"\x00"
    private = bytes(4) + b"teSt" + zlib.crc32(b"teSt").to_bytes(4, "big")
    files: dict[str, tuple[Callable[[], bytes], str | None]] = {
        "JPEG of 200,000 passes": (progressive, "scans, got"),
        "JPEG of 20,000 passes": (lambda: progressive(20_000, 256), "at most 1[01][0-9] scans"),
        "JPEG of 4000 passes in 63 MiB": (
            lambda: progressive(4000, 4096).ljust(63 << 20, b"\x00"),
            "took too long",
        ),
        "JPEG of a million comments": (
            lambda: after_start("JPEG", b"\xff\xfe\x00\x02", 1_000_000, 2),
            None,
        ),
        "PNG of 500,000 chunks": (lambda: after_start("PNG", private, 500_000, 33), None),
        "GIF with a comment of 3 million parts": (
            lambda: b"GIF89a" + struct.pack("<2H3B", 16, 16, 0, 0, 0) + comment + b";",
            "an image",
        ),
        "TIFF whose tags share 8 MiB": (tiff_of_one_part, "an image"),
        "PPM in decimal digits": (lambda: b"P3 512 512 255\n" + b"255 " * (3 << 18), None),
        "PPM of values to 254": (lambda: b"P6 1024 1024 254\n" + bytes(3 << 20), None),
        "PNG of 2048x2048 and 16 bits": (lambda: png(2048, 2048, bits=16), "eight bits"),
    }
    for name, (content, says) in files.items():
        yield case(name, "image", written(content), says)


def image_cases() -> Iterator[Case]:
    """Whatever is no picture of a few pixels."""
    good = picture("PNG")
    files: dict[str, tuple[bytes | Callable[[], bytes], str]] = {
        "EPS": (EPS, "got none of PNG"),
        "EPS with a DOS header": (
            struct.pack("<4s7IH", b"\xc5\xd0\xd3\xc6", 32, len(EPS), 0, 0, 0, 0, 0, 0)[:32] + EPS,
            "got none of PNG",
        ),
        "PDF": (b"%PDF-1.7\n1 0 obj <</OpenAction <</S /Launch /F (touch harm)>>>>", "got none"),
        "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>", "got none"),
        "XML with entities": (
            b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>",
            "got none",
        ),
        "ICO": (lambda: picture("ICO"), "got none"),
        "TGA": (lambda: picture("TGA"), "got none"),
        "PCX": (lambda: picture("PCX"), "got none"),
        "JPEG 2000": (b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(64), "got none"),
        "WMF": (b"\xd7\xcd\xc6\x9a" + bytes(64), "got none"),
        "FITS": (b"SIMPLE  =                    T".ljust(2880), "got none"),
        "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "got none"),
        "a font": (b"\x00\x01\x00\x00" + bytes(64), "got none"),
        "floating point": (lambda: converted("F", "TIFF"), "eight bits a channel, got mode F"),
        "32 bits": (lambda: converted("I", "TIFF"), "eight bits a channel, got mode I"),
        "16 bits": (lambda: converted("I;16", "PNG"), "eight bits a channel, got mode I;16"),
        **{
            f"{kind} of 16 bits in colour": (functools.partial(deep, kind), "eight bits a channel")
            for kind in (
                *("PNG", "PNG with alpha", "PNG, grey with alpha", "PPM", "plain PPM"),
                *("TIFF", "TIFF of the other order"),
            )
        },
        "a pixel that is half transparent": (
            lambda: converted("RGBA", "PNG", 128),
            "partly transparent: flatten it first",
        ),
        "grey, a transparent pixel": (lambda: converted("LA", "PNG", 0), "partly transparent"),
        "WebP with a transparent pixel": (lambda: converted("RGBA", "WEBP", 0), "transparent"),
        "nothing": (b"", "got none"),
        "text": (b"hello", "got none"),
        "an array": (b"\x93NUMPY\x01\x00" + bytes(64), "got none"),
        "13000x13000 of one bit": (lambda: png(13_000, 13_000, bits=1), "at most 4096x4096"),
        "one pixel too many a side": (lambda: png(4097, 1), "got 4097x1: scale it down"),
        "5000x1": (lambda: png(5_000, 1), "at most 4096x4096"),
        "2^31 pixels a side": (png((1 << 31) - 1, (1 << 31) - 1, packed=b"x"), "an image"),
        "20000x20000": (png(20_000, 20_000, packed=b"x"), "decompression bomb"),
        "no numbers": (png(32, 32, packed=b""), "an image"),
        "broken numbers": (png(32, 32, packed=b"x" * 99), "an image"),
        "no width": (png(0, 32, packed=b"x"), "an image"),
        "GIF of 60000x60000": (
            b"GIF89a" + struct.pack("<2H3B", 60_000, 60_000, 0, 0, 0) + b"," + bytes(20) + b";",
            "an image",
        ),
        "BMP of 2^30 pixels a side": (
            b"BM"
            + struct.pack("<I4xI", 64, 54)
            + struct.pack("<I2i2H6I", 40, 1 << 30, 1 << 30, 1, 24, 0, 0, 0, 0, 0, 0),
            "an image",
        ),
        "PPM of 10^9 pixels": (b"P6 100000 10000 255\n", "decompression bomb|4096"),
        "PPM of a size of 10,000 digits": (b"P6 " + b"9" * 10_000 + b" 3 255\n", "an image"),
        "PPM in words": (b"P6 three four 255\n", "an image"),
        "WebP of 16383x16383": (
            b"RIFF"
            + struct.pack("<I", 26)
            + b"WEBPVP8X"
            + struct.pack("<I", 10)
            + b"\x02\x00\x00\x00\xfe\x3f\x00\xfe\x3f\x00"
            + b"ANIM",
            "an image",
        ),
        "TIFF whose directory is itself": (
            b"II*\x00\x08\x00\x00\x00" + b"\x01\x00" + bytes(40),
            "an image",
        ),
        "65 MiB": (lambda: good + bytes(65 << 20), "at most 64 MiB"),
        **{
            f"PNG cut at {cut}": (good[:cut], "an image")
            for cut in (1, 8, 20, 33, 60, 200, len(good) // 2, len(good) - 40)
        },
    }
    for name, (content, says) in files.items():
        yield case(name, "image", written(content), says)
    for kind, count in {
        **dict.fromkeys(("JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"), 10),
        "PNG": 25,
    }.items():
        whole = picture(kind, 16)
        for seed in range(count):
            yield case(f"mutated {kind} {seed}", "image", written(mutate(whole, seed)), None)


def npy(
    header: bytes | dict[str, object], content: bytes = b"", version: tuple[int, int] = (1, 0)
) -> bytes:
    """An NPY file with this header."""
    text = header if isinstance(header, bytes) else repr(header).encode()
    length = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + text + content


def described(**changes: object) -> dict[str, object]:
    """A header of three float32."""
    return {"descr": "<f4", "fortran_order": False, "shape": (3,), **changes}


def saved(array: np.ndarray) -> bytes:
    """As numpy.save writes it."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


class Harm:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def array_cases() -> Iterator[Case]:
    """Whatever is no array of a few finite numbers."""
    zipped = io.BytesIO()
    np.savez(zipped, mask=np.ones((3, 4, 4)))
    good = saved(np.ones((3, 4, 4), dtype=np.float32))
    ten = bytes(12)
    files: dict[str, tuple[bytes | Callable[[], bytes], str | None]] = {
        "complex": (saved(np.ones(3, dtype=np.complex64)), "got one of complex64"),
        "dates": (saved(np.array([datetime(2026, 1, 1)], dtype="M8[s]")), "got one of datetime64"),
        "spans of time": (saved(np.ones(3, dtype="m8[s]")), "got one of timedelta64"),
        "text": (saved(np.array(["a", "b"])), "got one of <U1"),
        "bytes": (saved(np.array([b"a", b"b"])), "got one of"),
        "fields": (saved(np.zeros(3, dtype=[("a", "f4"), ("b", "O")])), "Python objects"),
        "plain fields": (saved(np.zeros(3, dtype=[("a", "f4")])), "got one of"),
        "void": (saved(np.zeros(3, dtype="V8")), "got one of"),
        "long double": (saved(np.ones(3, dtype=np.longdouble)), "got one of"),
        "NPZ": (zipped.getvalue(), "a zip archive, such as NPZ"),
        "NaN": (saved(np.array([1, np.nan])), "NaN or infinite"),
        "infinite": (saved(np.array([1, -np.inf], dtype=np.float16)), "NaN or infinite"),
        "too large for float32": (saved(np.array([1e300])), "NaN or infinite"),
        "petabytes": (
            npy(described(shape=(1 << 50,)), ten),
            "takes 4503599627370496 bytes, got 12",
        ),
        "2^80": (npy(described(shape=(1 << 40, 1 << 40)), ten), "got 12"),
        "petabytes of nothing": (npy(described(shape=(1 << 50, 0))), None),
        "negative": (npy(described(shape=(-3,)), ten), "an array"),
        "two negative sides": (npy(described(shape=(-3, -1)), ten), r"got the shape \(-3, -1\)"),
        "shape of floats": (npy(described(shape=(3.0,)), ten), "an array"),
        "shape of truths": (npy(described(shape=(True, 3)), ten), "an array"),
        "shape is a number": (npy(described(shape=3), ten), "an array"),
        "shape of 2000 sides": (npy(described(shape=(1,) * 2000), ten), "an array"),
        "descr is a call": (npy(b"{'descr': __import__('os').system('touch harm')}"), "an array"),
        "descr is a number": (npy(described(descr=7), ten), "an array"),
        "descr is nested": (npy(described(descr=[("a", [("b", "<f4")])]), ten), "an array"),
        "descr is unknown": (npy(described(descr="<q9"), ten), "an array"),
        "order is a number": (npy(described(fortran_order=3), ten), "an array"),
        "a key more": (npy(described(more=1), ten), "an array"),
        "a key less": (npy({"descr": "<f4"}, ten), "an array"),
        "header is a list": (npy(b"[1, 2]", ten), "an array"),
        "header is text": (npy(b"hello", ten), "an array"),
        "header is empty": (npy(b"", ten), "an array"),
        "header is nested": (npy(b"(" * 9000, ten), "an array"),
        "header is long": (lambda: npy(b" " * 20_000_000, ten, (2, 0)), "an array"),
        "header claims 4 GB": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "an array"),
        "header of zeros": (npy(bytes(100), ten), "an array"),
        "version 9": (npy(described(), ten, (9, 0)), r"version \(9, 0\)"),
        "version 3": (npy(described(), ten, (3, 0)), r"version \(3, 0\)"),
        "one number less": (npy(described(), ten[:-4]), "takes 12 bytes, got 8"),
        "one number more": (npy(described(), bytes(16)), "takes 12 bytes, got 16"),
        "nothing": (b"", "begins with b''"),
        "a picture": (lambda: picture("PNG"), "begins with"),
        "a pickle": (b"\x80\x04cos\nsystem\n.", "begins with"),
        **{f"cut at {cut}": (good[:cut], "an array") for cut in (3, 7, 9, 40, 100, len(good) - 1)},
    }
    for name, (content, says) in files.items():
        yield case(name, "array", written(content), says)

    def objects(path: Path) -> None:
        path.write_bytes(saved(np.array([Harm(harm(path))], dtype=object)))

    yield case("objects", "array", objects, "Python objects")

    def sparse(path: Path) -> None:
        path.write_bytes(npy(described(shape=(3 << 28,))))
        os.truncate(path, 3 << 30)

    yield case("3 GB of nothing", "array", sparse, "at most 64 MiB, got 3072 MiB")
    for seed in range(60):
        yield case(f"mutated {seed}", "array", written(mutate(good, seed)), None)
    ones = np.ones((3, 4, 4))
    masks = {
        "10^30": (ones * 1e30, r"in \[0,1\], got 1e\+30"),
        "negative": (-ones, r"in \[0,1\], got -1"),
        "a little over 1": (ones * 1.01, r"in \[0,1\]"),
        "NaN": (ones * np.nan, "NaN or infinite"),
        "four channels": (np.ones((4, 4, 4)), r"got \(4, 4, 4\)"),
        "one axis": (np.ones(4), r"got \(4,\)"),
        "nothing": (np.ones((3, 0, 4)), r"got \(3, 0, 4\)"),
        "a number": (np.float32(1), r"got \(\)"),
    }
    for name, (mask, says) in masks.items():
        yield case(name, "mask", written(saved(np.asarray(mask))), says)


def special_cases() -> Iterator[Case]:
    """What is no regular file, for each reader that is given a path."""

    def listen(path: Path) -> None:
        # Of a path of any length: a socket's own may have a hundred characters.
        before = Path.cwd()
        os.chdir(path.parent)
        try:
            with socket.socket(socket.AF_UNIX) as place:
                place.bind(path.name)
        finally:
            os.chdir(before)

    kinds: dict[str, tuple[Make, str]] = {
        "a named pipe": (os.mkfifo, "expected a regular file, got a named pipe"),
        "a folder": (Path.mkdir, "got a folder"),
        "a socket": (listen, "can't be opened"),
        "endless zeros": (lambda path: path.symlink_to("/dev/zero"), "got a device"),
        "a terminal": (lambda path: path.symlink_to("/dev/ptmx"), "got a device|can't be opened"),
        "a link to nothing": (lambda path: path.symlink_to("nowhere"), "no such file"),
        "a link to itself": (lambda path: path.symlink_to(path.name), "can't be opened"),
        "no file": (lambda path: None, "no such file"),
        "an empty file": (Path.touch, ""),
    }
    for reader in ("checkpoint", "training", "array", "mask", "image", "manifest"):
        for name, (make, says) in kinds.items():
            yield case(name, reader, make, says)


def cases() -> list[Case]:
    """All of them."""
    return [*image_cases(), *bomb_cases(), *array_cases(), *special_cases()]
