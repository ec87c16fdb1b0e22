"""Images from a path: a folder a class, a flat folder, or a file of arrays."""

import csv
import io
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from awm_defense.data.dataset import as_float
from awm_defense.data.split import draw_defender
from awm_defense.files.arrays import read_arrays
from awm_defense.files.door import MIB, read_file
from awm_defense.files.images import open_photos
from awm_defense.files.text import PATH, shown
from awm_defense.inputs.images import UNKNOWN, read_images
from awm_defense.inputs.preparation import Preparation

MOST_FILES = 1_000_000
MOST_BYTES = 4096 * MIB
CSV_LIMIT = 64 * MIB
HEADERS = [[file, "label"] for file in ("file", "filename", "file_name")]
ENDINGS = (".png", ".jpg", ".jpeg", ".ppm", ".bmp", ".gif", ".tif", ".tiff", ".webp")
ARRAYS = (".npz", ".npy")
WHAT = f"a folder of images ({', '.join(ENDINGS)}), or a file {' or '.join(ARRAYS)}"
# Data sets of Hugging Face, as `save_to_disk` writes them and as the Hub holds them. Only pyarrow
# reads these, which would parse a stranger's bytes in C++.
TABLES = (".arrow", ".parquet")
IN_TABLES = (
    "a data set of Hugging Face (arrow, parquet) is read from Python alone: open it with "
    "`datasets` and give it to purify, or save its rows as images, a folder a class"
)


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images in memory.

    Attributes:
        images: uint8 or floating point (n, c, h, w).
        labels: int64 (n,), `UNKNOWN` where no class is given.
    """

    images: Tensor
    labels: Tensor

    def read(self, indices: Tensor) -> Tensor:
        """Images of these indices, floating point (n, c, h, w) in [0, 1]."""
        return as_float(self.images[indices])

    def names(self, indices: Tensor) -> list[str]:
        """Of their files, of which there are none."""
        return []


@dataclass(frozen=True, eq=False)
class Files:
    """One file an image, which is read when it is asked for.

    Attributes:
        root: the folder.
        paths: of the files in it.
        labels: int64 (n,), `UNKNOWN` where no class is given.
        preparation: of each image.
    """

    root: Path
    paths: Sequence[Path]
    labels: Tensor
    preparation: Preparation

    def read(self, indices: Tensor) -> Tensor:
        """Images of these indices, float32 (n, c, h, w) in [0, 1]."""
        chosen = [self.paths[index] for index in indices.tolist()]
        images: list[Tensor] = []
        with closing(open_photos(chosen)) as pictures:
            for path, picture in zip(chosen, pictures, strict=True):
                image = self.preparation.apply(picture)
                if images and image.shape != images[0].shape:
                    raise ValueError(
                        f"{shown(path, PATH)}: expected {images[0].shape[2]}x{images[0].shape[1]} "
                        f"pixels as of the images before, got {image.shape[2]}x{image.shape[1]}; "
                        "--size makes all of one size"
                    )
                if image.numel() * 4 * len(chosen) > MOST_BYTES:
                    raise ValueError(
                        f"{shown(self.root, PATH)}: {len(chosen)} images of {tuple(image.shape)} "
                        f"take over {MOST_BYTES // MIB} MiB; take fewer or make them smaller"
                    )
                images.append(image)
        return as_float(torch.stack(images))

    def names(self, indices: Tensor) -> list[str]:
        """Of their files, relative to the folder."""
        chosen = (self.paths[index] for index in indices.tolist())
        return [path.relative_to(self.root).as_posix() for path in chosen]


Source = Arrays | Files


def open_source(path: Path, preparation: Preparation) -> Source:
    """The images at a path.

    Args:
        path: a folder with a folder a class, numbered in the order of their names, or by the names
            if all are whole numbers; a folder of images, with a CSV file of the columns
            `file,label` or without labels; an NPZ file with one array of images and perhaps one of
            labels, or an NPY file of images.
        preparation: for pictures; arrays are taken as they are.

    Raises:
        FileNotFoundError: when nothing is there.
        ValueError: when it is something else; the message names the file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{shown(path, PATH)}: no such file or folder")
    if path.is_dir():
        return _open_folder(path, preparation)
    if path.suffix.lower() in TABLES:
        raise ValueError(f"{shown(path, PATH)}: {IN_TABLES}")
    if path.suffix.lower() not in ARRAYS:
        raise ValueError(f"{shown(path, PATH)}: expected {WHAT}")
    arrays = read_arrays(path)
    try:
        return _from_arrays(arrays)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{shown(path, PATH)}: {error}") from error


def open_triggered(
    root: Path, shape: Sequence[int], limit: int | None = None
) -> tuple[Tensor, Tensor]:
    """Images with a trigger, and what they show.

    Args:
        root: a folder with a folder for each class, which has its number as its name.
        shape: (c, h, w) that the images are made to have.
        limit: how many are read at most, of all classes.

    Returns:
        Floating point (n, c, h, w) in [0, 1], and int64 (n,).

    Raises:
        FileNotFoundError: when nothing is there.
        ValueError: when it is something else; the message names the folder.
    """
    preparation = Preparation(size=(shape[1], shape[2]), squash=True, grey=shape[0] == 1)
    source = open_source(root, preparation)
    if isinstance(source, Arrays) or not all(
        path.relative_to(root).parts[0].isdecimal() for path in source.paths
    ):
        raise ValueError(
            f"{shown(root, PATH)}: expected a folder for each class, named by its number"
        )
    labels = source.labels
    count = len(labels) if limit is None else min(limit, len(labels))
    chosen = draw(labels, n=count) if count < len(labels) else torch.arange(count)
    return source.read(chosen), labels[chosen]


def draw(
    labels: Tensor, *, per_class: int | None = None, n: int | None = None, seed: int = 0
) -> Tensor:
    """Indices of a defender's few images, as `draw_defender` draws them."""
    return draw_defender(labels, labels, per_class=per_class, n=n, seed=seed)[2]


def _from_arrays(arrays: dict[str, Tensor]) -> Arrays:
    """Whichever array has three or four dimensions is of images, and one of one of labels."""
    images = [name for name, array in arrays.items() if array.dim() in (3, 4)]
    labels = [name for name, array in arrays.items() if array.squeeze().dim() <= 1]
    if len(images) != 1 or len(labels) > 1:
        found = ", ".join(f"{shown(name)} {tuple(array.shape)}" for name, array in arrays.items())
        raise ValueError(
            "expected one array of images (n,h,w), (n,h,w,c) or (n,c,h,w), and at most one of "
            f"labels (n,), got {found or 'none'}"
        )
    classes = arrays[labels[0]].flatten() if labels else None
    pixels = arrays[images[0]]
    if pixels.dim() == 3 and classes is None:
        classes = torch.full((len(pixels),), UNKNOWN)
    return Arrays(*read_images(pixels, classes)[:2])


def _open_folder(root: Path, preparation: Preparation) -> Files:
    inside = sorted(root.iterdir())
    folders = [path for path in inside if path.is_dir() and not path.name.startswith(".")]
    tables = [path for path in inside if path.suffix.lower() == ".csv"]
    if len(tables) > 1:
        raise ValueError(
            f"{shown(root, PATH)}: expected at most one CSV file, got {tables[0].name} and "
            f"{tables[1].name}"
        )
    if tables:
        rows = _rows(tables[0])
    elif folders:
        names = [path.name for path in folders]
        numbered = all(name.isdecimal() and len(name) <= 9 for name in names)
        rows = [
            (path, int(folder.name) if numbered else number)
            for number, folder in enumerate(folders)
            for path in sorted(folder.rglob("*"))
            if _is_image(path)
        ]
    else:
        rows = [(path, UNKNOWN) for path in inside if _is_image(path)]
    if not rows and any(path.suffix.lower() in TABLES for path in root.rglob("*")):
        raise ValueError(f"{shown(root, PATH)}: {IN_TABLES}")
    if not 1 <= len(rows) <= MOST_FILES:
        raise ValueError(
            f"{shown(root, PATH)}: expected {WHAT}, got {len(rows)} images"
            + (f", over {MOST_FILES}" if rows else "")
        )
    paths, labels = zip(*rows, strict=True)
    return Files(root, paths, torch.tensor(labels), preparation)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".")


def _rows(table: Path) -> list[tuple[Path, int]]:
    """File and class of each line; names of classes are numbered in their order."""
    name = shown(table, PATH)
    try:
        text = read_file(table, CSV_LIMIT).decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text, newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{name}: expected lines of file,label, got {shown(error)}") from error
    rows = [line for line in lines if line]
    if rows and [word.strip().lower() for word in rows[0]][:2] in HEADERS:
        rows = rows[1:]
    for row in rows:
        inside = Path(row[0])
        if len(row) != 2 or inside.is_absolute() or ".." in inside.parts or not row[0]:
            raise ValueError(
                f"{name}: expected lines of file,label, files below the folder of the CSV file, "
                f"got {shown(','.join(row))}"
            )
    words = [label.strip() for _, label in rows]
    numbered = all(word.isdecimal() and len(word) <= 9 for word in words)
    known = {word: number for number, word in enumerate(sorted(set(words)))}
    return [
        (table.parent / file, int(word) if numbered else known[word])
        for (file, _), word in zip(rows, words, strict=True)
    ]
