"""Images and labels from Python, of many kinds, as tensors."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from awm_defense.data.dataset import as_float

MOST = 1000
"""Images taken of a data set; no purification needs more."""
UNKNOWN = -1
"""The label of an image whose class is not given."""
# What rows of data sets call them, those of Hugging Face among others.
IMAGE_KEYS = ("image", "img", "images", "pixel_values")
LABEL_KEYS = ("label", "labels", "fine_label")
CHANNELS = (1, 3)
# Of Pillow's pictures, which it cuts off at 255.
DEEP = ("I", "F")
DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)

Images: TypeAlias = Tensor | NDArray[Any] | Dataset[Any] | Iterable[Any]
Labels: TypeAlias = Tensor | NDArray[Any] | Sequence[int | None] | None


class Given(NamedTuple):
    """Images and labels in the one form that everything else takes."""

    images: Tensor
    """Floating point (n, c, h, w), in [0, 1] where they came as bytes."""
    labels: Tensor
    """Int64 (n,), `UNKNOWN` where no class is given."""
    unlabelled: bool
    """Whether none was given; what stands there later is what a network said."""


def read_images(images: Images, labels: Labels = None, *, most: int = MOST) -> Given:
    """Images and labels of any kind that is known.

    Args:
        images: a tensor or an array, (n, c, h, w) or (n, h, w, c), floating point in [0, 1] or
            uint8; with labels also (n, h, w), which is grey. Or a list of such images, or of
            PIL's. Or a data set or a loader, whose rows are images, (image, label), or mappings
            such as {"image": ..., "label": ...}. Of transparent pixels, in pictures and in
            (n, h, w, 4), the colours are taken, as of files.
        labels: a whole number an image, None or −1 where the class is not known. None: those of the
            rows, if they have any.
        most: images that are taken of a data set, spread over it; of a loader, the first ones.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    kept = keep_images(images, labels, most=most)
    return kept._replace(images=as_float(kept.images))


def keep_images(images: Images, labels: Labels = None, *, most: int = MOST) -> Given:
    """As `read_images`, but images of bytes stay such, which take a quarter of the memory."""
    found: Any = _dense("labels", labels)
    if not isinstance(images, Tensor | np.ndarray):
        images, inner = _gather(images, most)
        found = inner if labels is None else labels
    given = torch.as_tensor(_known_type(images))
    if given.dim() == 3 and _is_one_each(found, len(given)):
        given = given[:, None]
    if given.dim() != 4 or len(given) == 0:
        raise ValueError(f"images: expected shape (n ≥ 1, c, h, w), got {tuple(given.shape)}")
    classes = _as_labels(found, len(given))
    unlabelled = bool((classes == UNKNOWN).all())
    _check_dtype(given)
    # Of those made under inference_mode clones, which autograd can save outside of it.
    given, classes = (t.clone() if t.is_inference() else t for t in (given, classes))
    return Given(_channels_first(given), classes, unlabelled)


def _is_one_each(labels: Any, count: int) -> bool:
    try:
        return len(labels) == count
    except TypeError:  # none, or no several
        return False


def _gather(collection: Any, most: int) -> tuple[Tensor, list[int | None]]:
    """The images of a collection as one tensor, and the label of each."""
    images: list[Tensor] = []
    labels: list[int | None] = []
    for row in _rows(collection, most):
        image, label = _split(row)
        part = _as_tensor(image)
        batch = part if part.dim() == 4 else part[None]
        images += batch
        labels += [None] * len(batch) if label is None else _label_list(label)
        if len(images) >= most:
            break
    if not images:
        raise ValueError("images: expected at least one, got none")
    first = images[0]
    for image in images:
        if image.shape != first.shape:
            raise ValueError(
                f"images: expected all of one size, got {tuple(first.shape)} and "
                f"{tuple(image.shape)}; resize them to what the network takes"
            )
    return torch.stack(images[:most]), labels[:most]


def _rows(collection: Any, most: int) -> Iterator[Any]:
    if isinstance(collection, str | bytes | Mapping | type | np.generic) or not (
        hasattr(collection, "__iter__") or hasattr(collection, "__getitem__")
    ):
        raise TypeError(
            "images: expected a tensor, an array, a list of images, a data set or a loader, "
            f"got {type(collection).__name__}"
        )
    if hasattr(collection, "__getitem__") and hasattr(collection, "__len__"):
        # Data sets are often sorted by class.
        count = len(collection)
        chosen = np.linspace(0, count - 1, min(count, most)).astype(int) if count else ()
        return (collection[int(index)] for index in chosen)
    return islice(iter(collection), most)


def _split(row: Any) -> tuple[Any, Any]:
    """An image, or a batch of them, and its label, or None."""
    if isinstance(row, Mapping):
        image, label = (
            next((row[key] for key in keys if key in row), None)
            for keys in (IMAGE_KEYS, LABEL_KEYS)
        )
        if image is None:
            raise ValueError(
                f"images: expected rows with one of {', '.join(IMAGE_KEYS)}, "
                f"got {', '.join(map(str, row)) or 'nothing'}"
            )
        return image, label
    if isinstance(row, tuple | list) and row:
        return row[0], row[1] if len(row) > 1 else None
    return row, None


def _label_list(label: Any) -> list[Any]:
    """The labels of one row, which may be a batch."""
    if isinstance(label, Tensor):
        label = _dense("labels", label).detach().cpu().tolist()
    return np.atleast_1d(label).tolist()


def _as_tensor(image: Any) -> Tensor:
    """One image (c, h, w) or (h, w, c), or a batch of them."""
    if isinstance(image, Image.Image):
        if image.mode.startswith(DEEP):
            raise ValueError(
                "images: expected pictures of eight bits a channel, got one of mode "
                f"{image.mode}, of more: scale its values to 0 to 255 first"
            )
        pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
        # A copy: what Pillow gives can't be written to.
        return torch.tensor(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
    found = torch.as_tensor(_known_type(image))
    return found[None] if found.dim() == 2 else found


def _known_type(value: Any) -> Any:
    if not isinstance(value, Tensor | np.ndarray):
        raise TypeError(
            f"images: expected tensors, arrays or PIL images, got {type(value).__name__}"
        )
    # Of numbers with more than 64 bits PyTorch knows none.
    if isinstance(value, np.ndarray) and (
        value.dtype.kind not in "fiub" or value.dtype.itemsize > 8
    ):
        raise TypeError(
            f"images: expected numbers of at most 64 bits, got an array of {value.dtype}"
        )
    return _dense("images", _as_torch_takes_it(value))


def _dense(argument: str, value: Any) -> Any:
    """`value`; raises TypeError where it is a tensor whose numbers don't lie in memory in order."""
    if isinstance(value, Tensor):
        if value.is_nested or value.is_quantized or value.layout != torch.strided:
            kind = str(value.dtype if value.is_quantized else value.layout)
            kind = "a nested one" if value.is_nested else kind
            raise TypeError(f"{argument}: expected a dense tensor, got {kind}")
        if value.is_meta:
            raise TypeError(f"{argument}: expected a tensor that holds numbers, got one on meta")
    return value


def _as_torch_takes_it(value: Any) -> Any:
    """An array that can be written to and goes forward in memory; whatever is no array as it is."""
    if not isinstance(value, np.ndarray):
        return value
    return np.require(value, value.dtype.newbyteorder("="), ["C", "W"])


def _channels_first(images: Tensor) -> Tensor:
    """(n, c, h, w), also of (n, h, w, c) where that is no other thing; without transparency."""
    _, channels, height, last = images.shape
    sides = min(channels, height)
    if channels in CHANNELS or last not in (*CHANNELS, 4) or sides <= 4:
        return images
    return images.permute(0, 3, 1, 2)[:, : 3 if last == 4 else last].contiguous()


def _check_dtype(images: Tensor) -> None:
    if images.dtype not in DTYPES:
        raise TypeError(f"images: expected floating point in [0, 1] or uint8, got {images.dtype}")


def _as_labels(labels: Any, count: int) -> Tensor:
    if labels is None:
        return torch.full((count,), UNKNOWN)
    if isinstance(labels, list | tuple):
        labels = [UNKNOWN if label is None else label for label in labels]
    try:
        found = torch.as_tensor(_as_torch_takes_it(labels))
        whole = found.to("cpu", torch.int64)
        # Of types of eight bits and of those without a sign few operations are known.
        exact = found.to("cpu", torch.float64) if found.is_floating_point() else whole
        different = bool((exact != whole).any())
    except (TypeError, ValueError, RuntimeError):
        got = getattr(labels, "dtype", type(labels).__name__)
        raise TypeError(f"labels: expected whole numbers, one an image, got {got}") from None
    if found.shape != (count,):
        raise ValueError(f"labels: expected shape ({count},), got {tuple(found.shape)}")
    if found.dtype == torch.bool or found.is_complex() or different:
        raise TypeError(f"labels: expected whole numbers, got {found.dtype}")
    lowest = int(whole.min())
    if lowest < 0 and not found.dtype.is_signed:
        raise ValueError("labels: expected numbers of classes, got one of 2⁶³ or more")
    if lowest < UNKNOWN:
        raise ValueError(f"labels: expected classes from 0, or −1 for none, got {lowest}")
    return whole
