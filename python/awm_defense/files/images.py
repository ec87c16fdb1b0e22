"""Images in files, decoded by a child process (`image_child`) that knows few formats."""

from collections import deque
from collections.abc import Generator, Iterable
from pathlib import Path

import PIL
from PIL import Image

from awm_defense.files.child import PATIENCE, Child
from awm_defense.files.door import MIB, read_file
from awm_defense.files.text import PATH, shown

PROGRAM = Path(__file__).with_name("image_child.py")
# Where Pillow is: the child knows no site-packages.
PILLOW = Path(PIL.__file__).parents[1]
# An image of the highest number of pixels, uncompressed.
LIMIT = 64 * MIB
# Images that are sent before the first is answered: this process and the child work at once.
AHEAD = 16
# Bytes of answers that may wait meanwhile.
WAITING = 64 * MIB
# Pixels a side; no trigger and no image of a data set has as many.
SIDE = 4096
# Of photographs, which no network takes as they are: the child makes them smaller.
PHOTO_SIDE, PHOTO_SHRUNK = 10_000, 2048


def open_photos(paths: Iterable[Path]) -> Generator[Image.Image, None, None]:
    """`open_images` of up to 10,000 pixels a side; what has more than 2048 is made smaller.

    Of transparent pixels the colours are taken.
    """
    return _open(paths, LIMIT, PHOTO_SIDE, PHOTO_SHRUNK, opaque=False)


def open_images(
    paths: Iterable[Path], *, limit: int = LIMIT, side: int = SIDE
) -> Generator[Image.Image, None, None]:
    """Image files in RGB, in order, all decoded by one process.

    Args:
        paths: PNG, JPEG, PPM, BMP, GIF, TIFF or WebP; the content decides which, not the name.
        limit: bytes that each file may have.
        side: pixels that each may be high and wide.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when one is no such image, broken, too large, partly transparent, or of more
            than eight bits a channel.
    """
    return _open(paths, limit, side, side, opaque=True)


def open_image(path: Path, *, limit: int = LIMIT) -> Image.Image:
    """One image file in RGB; as `open_images`."""
    (image,) = open_images([path], limit=limit)
    return image


def _open(
    paths: Iterable[Path], limit: int, side: int, shrunk: int, *, opaque: bool
) -> Generator[Image.Image, None, None]:
    waiting: deque[Path] = deque()
    arguments = (str(PILLOW), str(side), str(shrunk), str(int(opaque)))
    with Child(PROGRAM, *arguments, patience=PATIENCE) as child:
        for path in paths:
            content = read_file(path, limit)
            waiting.append(path)
            try:
                child.ask(len(content).to_bytes(8, "little") + content)
            except ValueError:
                break  # it is the first image without an answer that has ended the child
            while len(waiting) > AHEAD or (waiting and len(child.given) > WAITING):
                yield _answer(child, waiting.popleft(), shrunk)
        while waiting:
            yield _answer(child, waiting.popleft(), shrunk)


def _answer(child: Child, path: Path, side: int) -> Image.Image:
    try:
        width, height = (int.from_bytes(child.read(4), "little") for _ in range(2))
        if width == 0:
            reason = child.read(min(height, MIB)).decode("utf-8", "replace")
            raise ValueError(shown(reason, PATH))
        if not (width <= side and 0 < height <= side):
            raise ValueError(f"got {width}x{height} pixels")
        image = Image.frombytes("RGB", (width, height), child.read(width * height * 3))
    except ValueError as error:
        raise ValueError(f"{shown(path, PATH)}: expected an image, {error}") from error
    child.expect()  # the next was asked for before; this one has taken of its time
    return image
