"""Images in files: of few formats, of bounded size, and decoded only when both are known."""

import io
import logging
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from awm_defense.files.door import MIB, read_file
from awm_defense.files.text import PATH, sentence, shown

# Pillow knows more, and starts other programs for some of them (Ghostscript for EPS).
FORMATS = ("PNG", "JPEG", "PPM", "BMP", "GIF", "TIFF", "WEBP")
LIMIT = 64 * MIB
# What is wrong with an image is said once, in the error.
logging.getLogger("PIL").addHandler(logging.NullHandler())
# Pixels a side; no trigger and no image of a data set has as many.
SIDE = 4096


def open_image(path: Path, *, limit: int = LIMIT) -> Image.Image:
    """An image file, decoded to RGB.

    Args:
        path: PNG, JPEG, PPM, BMP, GIF, TIFF or WebP; the content decides which, not the name.
        limit: bytes that the file may have.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no such image, broken or too large.
    """
    content = read_file(path, limit)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Pillow only warns of images that are many times as large as is allowed here.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if max(image.size) > SIDE:
                    raise ValueError(
                        f"expected at most {SIDE}x{SIDE} pixels, got {image.width}x{image.height}"
                    )
                return image.convert("RGB")
    except Exception as error:  # a broken or hostile image can fail in any way
        raise ValueError(f"{shown(path, PATH)}: expected an image, {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"got none of {', '.join(FORMATS)}"
    return sentence(error)
