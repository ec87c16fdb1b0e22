"""Images in files, decoded by a child process (`image_child`) that knows few formats."""

from pathlib import Path
from types import TracebackType

import PIL
from PIL import Image

from awm_defense.files.child import Child
from awm_defense.files.door import MIB, read_file
from awm_defense.files.text import PATH, shown

PROGRAM = Path(__file__).with_name("image_child.py")
# Where Pillow is: the child knows no site-packages.
PILLOW = Path(PIL.__file__).parents[1]
# Seconds for one image.
PATIENCE = 9.0
LIMIT = 16 * MIB
# Pixels a side; no trigger and no image of a data set has as many.
SIDE = 1024


class ImageReader:
    """Decodes images, any number of them with one process."""

    def __init__(self) -> None:
        self.child: Child | None = None

    def __enter__(self) -> "ImageReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.child is not None:
            self.child.close()

    def read(self, path: Path, *, limit: int = LIMIT) -> Image.Image:
        """An image file in RGB.

        Args:
            path: PNG, JPEG, PPM, BMP, GIF, TIFF or WebP; the content decides which, not the name.
            limit: bytes that the file may have.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when it is no such image, broken or too large.
        """
        content = read_file(path, limit)
        try:
            return self._decode(content)
        except ValueError as error:
            raise ValueError(f"{shown(path, PATH)}: expected an image, {error}") from error

    def _decode(self, content: bytearray) -> Image.Image:
        if self.child is None:
            self.child = Child(PROGRAM, str(PILLOW), str(SIDE), patience=PATIENCE)
        self.child.ask(len(content).to_bytes(8, "little") + content)
        width, height = (int.from_bytes(self.child.read(4), "little") for _ in range(2))
        if width == 0:
            reason = self.child.read(min(height, MIB)).decode("utf-8", "replace")
            raise ValueError(shown(reason, PATH))
        if not (width <= SIDE and 0 < height <= SIDE):
            raise ValueError(f"got {width}x{height} pixels")
        return Image.frombytes("RGB", (width, height), self.child.read(width * height * 3))


def open_image(path: Path) -> Image.Image:
    """One image file in RGB; errors as of `ImageReader.read`."""
    with ImageReader() as reader:
        return reader.read(path)
