"""Pictures and arrays as the bytes of a file."""

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image


def as_png(pixels: "np.ndarray[Any, Any]") -> bytes:
    """Pixels (H,W,3), uint8, as a PNG file."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def as_npy(array: "np.ndarray[Any, Any]") -> bytes:
    """An array as an NPY file."""
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
