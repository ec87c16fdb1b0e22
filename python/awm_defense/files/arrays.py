"""Images and arrays in files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from awm_defense.files.atomic import write_bytes
from awm_defense.files.encoded import as_png


def read_image(path: Path) -> Tensor:
    """An image file as float32 RGB (3,H,W) in [0,1]."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels / 255).permute(2, 0, 1).contiguous()


def read_array(path: Path) -> Tensor:
    """An NPY file as float32; arrays of Python objects are refused, never unpickled."""
    return torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))


def write_image(path: Path, image: Tensor) -> None:
    """An image (3,H,W) in [0,1] as an 8-bit PNG."""
    pixels = (image.cpu() * 255).round().to(torch.uint8).permute(1, 2, 0)
    write_bytes(path, as_png(pixels.numpy()))
