"""A program that decodes images, in a process of its own.

Decoders are where images do harm: they take memory and time that no header tells of. Pillow knows
formats for which it starts other programs, too; none of those is known here.

The arguments are the folder that Pillow is installed in, the highest number of pixels a side, that
to which larger images are made smaller, and 1 where every pixel has to be opaque, else 0. On
standard input come images, each after its length (eight bytes). For each the answer is width and
height (four bytes each) and the RGB pixels; or zero, the length of a sentence, and that sentence.
"""

import io
import runpy
import sys
import time
import warnings
from pathlib import Path
from typing import Any

# Of a progressive JPEG; each goes through all pixels. Programs write a dozen. A few more may seem
# to be there in other data, such as a small picture for previews.
SCANS, SCAN, BYTES_A_SCAN = 100, b"\xff\xda", 16384
# A TIFF has the bits of each channel under this tag, and a PPM its highest value in what is given
# to its decoder. A PNG has the bits in the layout of its pixels.
TIFF_BITS = 258
HIGHEST = 255
# Whole and floating point numbers of more than eight bits, which Pillow cuts off at 255.
DEEP = ("I", "F")
FORMATS = ("PNG", "JPEG", "PPM", "BMP", "GIF", "TIFF", "WEBP")
MEMORY = 768 << 20
SECONDS = 4
FILES = 32
# Seconds of computing that an image has for nothing, and for each of its pixels. What many take
# beyond may not add up to more than one alone may take.
FREE, A_PIXEL = 0.02, 200e-9


def decode(
    images: Any, content: bytes, side: int, shrunk: int, opaque: int
) -> tuple[int, int, bytes]:
    """Width, height and pixels of an image; any exception for what is none."""
    with images.open(io.BytesIO(content), formats=FORMATS) as image:
        if max(image.size) > side:
            width, height = image.size
            raise ValueError(
                f"expected at most {side}x{side} pixels, got {width}x{height}: scale it down"
            )
        if image.mode.startswith(DEEP) or _is_deep(image):
            raise ValueError(
                f"expected eight bits a channel, got mode {image.mode} of more bits: save it anew, "
                "with values from 0 to 255"
            )
        if image.format == "JPEG":
            scans, most = content.count(SCAN), SCANS + len(content) // BYTES_A_SCAN
            if scans > most:
                raise ValueError(f"expected at most {most} scans, got {scans}: save it anew")
        if opaque and image.has_transparency_data and _alpha(image) < 255:
            raise ValueError("got one that is partly transparent: flatten it first")
        image.draft("RGB", (shrunk, shrunk))  # a JPEG is decoded at about that size
        pixels = image.convert("RGB")
        pixels.thumbnail((shrunk, shrunk))
        return *pixels.size, pixels.tobytes()


def _is_deep(image: Any) -> bool:
    """Whether Pillow takes the high byte of each value alone, which it does silently in colour."""
    layouts = [part for tile in image.tile for part in _parts(tile[3])]
    if image.format == "PPM":
        return any(isinstance(part, int) and part > HIGHEST for part in layouts)
    if image.format == "TIFF":
        return any(bits > 8 for bits in image.tag_v2.get(TIFF_BITS, ()))
    return any(isinstance(part, str) and ";16" in part for part in layouts)


def _parts(arguments: Any) -> tuple[Any, ...]:
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _alpha(image: Any) -> int:
    """The lowest alpha of an image that has some."""
    low: int = image.convert("RGBA").getchannel("A").getextrema()[0]
    return low


def answer(images: Any, content: bytes, side: int, shrunk: int, opaque: int) -> bytes:
    """The answer for an image."""
    try:
        width, height, pixels = decode(images, content, side, shrunk, opaque)
        return width.to_bytes(4, "little") + height.to_bytes(4, "little") + pixels
    except MemoryError:
        text = f"decoding it takes more than {MEMORY >> 20} MiB of memory"
    except images.UnidentifiedImageError:
        text = f"got none of {', '.join(FORMATS)}"
    except Exception as error:  # a broken or hostile image can fail in any way
        text = str(error)[:1000] or type(error).__name__
    return refusal(text)


def refusal(text: str) -> bytes:
    """The answer that is a sentence."""
    sentence = text.encode("utf-8", "backslashreplace")
    return bytes(4) + len(sentence).to_bytes(4, "little") + sentence


def overdrawn(images: Any, content: bytes, used: float) -> float:
    """How many seconds an image took beyond what one of its size may take; below 0 for less."""
    if used < FREE:
        return 0.0
    try:
        with images.open(io.BytesIO(content), formats=FORMATS) as image:
            return used - FREE - A_PIXEL * float(image.width * image.height)
    except Exception:  # it is refused, and the last one
        return 0.0


def main(folder: str, side: int, shrunk: int, opaque: int) -> None:
    """Answer until there is no more."""
    sys.path.append(folder)
    # Pillow would look through all its formats for one that is not imported yet.
    from PIL import Image, TiffImagePlugin, WebPImagePlugin  # noqa: F401

    warnings.simplefilter("ignore")
    set_limits = runpy.run_path(str(Path(__file__).with_name("child_limits.py")))["set_limits"]
    read, write = sys.stdin.buffer, sys.stdout.buffer
    left = float(SECONDS)
    while head := read.read(8):
        content = read.read(int.from_bytes(head, "little"))
        # Some decoders import modules of theirs when they are first used.
        set_limits(MEMORY, SECONDS, files=FILES)
        before = time.process_time()
        reply = answer(Image, content, side, shrunk, opaque)
        left = min(SECONDS, left - overdrawn(Image, content, time.process_time() - before))
        write.write(
            reply if left > 0 else refusal("it and those before it take too long to decode")
        )
        write.flush()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
