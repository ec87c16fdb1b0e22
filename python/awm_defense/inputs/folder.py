"""Images from a path: a folder a class, a flat folder, or a file of arrays."""

import csv
import io
import os
import posixpath
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from awm_defense.data.dataset import as_float
from awm_defense.data.split import draw_defender
from awm_defense.files.arrays import read_arrays
from awm_defense.files.door import MIB, read_file
from awm_defense.files.images import open_photos
from awm_defense.files.manifest import MOST_CLASSES
from awm_defense.files.text import PATH, shown
from awm_defense.inputs.classes import number_classes, number_folders, say_numbers
from awm_defense.inputs.images import UNKNOWN, keep_images
from awm_defense.inputs.preparation import Preparation
from awm_defense.inputs.walk import MOST_FILES, inside, walk

# Of all images that are read at once, as float32; less where a file alone decides over their size.
MOST_BYTES, MOST_BYTES_UNSIZED = 4096 * MIB, 960 * MIB
CSV_LIMIT = 64 * MIB
# Other scripts have digits, too, by which folders are not numbered.
DIGITS = re.compile("[0-9]+")
HEADERS = [[file, "label"] for file in ("file", "filename", "file_name")]
ENDINGS = (".png", ".jpg", ".jpeg", ".ppm", ".bmp", ".gif", ".tif", ".tiff", ".webp")
ARRAYS = (".npz", ".npy")
# What arrays of labels are called; NumPy calls those that are saved without a name arr_0, arr_1.
LABELS = re.compile(r"(\w*_)?(labels?|targets?|class(es)?|y)|y_\w+|arr_[0-9]+", re.IGNORECASE)
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
        notes: what whoever reads the result should know of them.
    """

    images: Tensor
    labels: Tensor
    notes: Sequence[str] = ()

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
        paths: of the files in it, relative to it; a million of them as `Path` would take long.
        labels: int64 (n,), `UNKNOWN` where no class is given.
        preparation: of each image.
        notes: what whoever reads the result should know of them.
    """

    root: Path
    paths: Sequence[str]
    labels: Tensor
    preparation: Preparation
    notes: Sequence[str] = ()

    def read(self, indices: Tensor) -> Tensor:
        """Images of these indices, float32 (n, c, h, w) in [0, 1]."""
        chosen = [self.root / name for name in self.names(indices)]
        images = torch.empty(0)
        most = MOST_BYTES_UNSIZED if self.preparation.size is None else MOST_BYTES
        with (
            closing(open_photos(inside(self.root, chosen))) as pictures,
            tqdm(
                pictures, "reading images", len(chosen), leave=False, disable=None, delay=5
            ) as bar,
        ):
            for index, (picture, path) in enumerate(zip(bar, chosen, strict=True)):
                image = self.preparation.apply(picture)
                if index and image.shape != images.shape[1:]:
                    raise ValueError(
                        f"{shown(path, PATH)}: expected {images.shape[3]}x{images.shape[2]} "
                        f"pixels as of the images before, got {image.shape[2]}x{image.shape[1]}; "
                        "--size makes all of one size"
                    )
                if image.numel() * 4 * len(chosen) > most:
                    raise ValueError(
                        f"{shown(self.root, PATH)}: {len(chosen)} images of {tuple(image.shape)} "
                        f"take over {most // MIB} MiB; take fewer, or make them smaller with --size"
                    )
                if index == 0:
                    # In their last form: the pictures as they are would take a half more.
                    images = torch.empty(len(chosen), *image.shape)
                images[index] = as_float(image)
        return images

    def names(self, indices: Tensor) -> list[str]:
        """Of their files, relative to the folder."""
        return [self.paths[index] for index in indices.tolist()]


Source = Arrays | Files


def open_source(path: Path, preparation: Preparation) -> Source:
    """The images at a path.

    Args:
        path: a folder with a folder a class, numbered in the order of their names, or by the names
            if all are whole numbers (`awm_defense.inputs.classes`); a folder of images, with a CSV
            file of the columns `file,label` or without labels; an NPZ file with one array of images
            and perhaps one of labels, or an NPY file of images.
        preparation: for pictures; arrays are taken as they are.

    Raises:
        FileNotFoundError: when nothing is there.
        ValueError: when it is something else; the message names the file.
    """
    source = _open(path, preparation)
    if int(source.labels.max()) >= MOST_CLASSES:
        raise ValueError(
            f"{shown(path, PATH)}: expected classes from 0 to {MOST_CLASSES - 1}, "
            f"got {int(source.labels.max())}"
        )
    return source


def draw(
    labels: Tensor, *, per_class: int | None = None, n: int | None = None, seed: int = 0
) -> Tensor:
    """Indices of a defender's few images, as `draw_defender` draws them."""
    return draw_defender(labels, labels, per_class=per_class, n=n, seed=seed)[2]


def _open(path: Path, preparation: Preparation) -> Source:
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
        root: a folder with a folder for each class, which has its number as its name, and no table.
        shape: (c, h, w) that the images are made to have.
        limit: how many are read at most, of all classes.

    Returns:
        Floating point (n, c, h, w) in [0, 1], and int64 (n,).

    Raises:
        FileNotFoundError: when nothing is there.
        ValueError: when it is something else; the message names the folder.
    """
    preparation = Preparation(size=(shape[1], shape[2]), squash=True, grey=shape[0] == 1)
    for table in root.glob("*.[cC][sS][vV]"):  # its classes would count more than the folders'
        raise ValueError(
            f"{shown(table, PATH)}: expected a folder for each class and no table beside them"
        )
    source = open_source(root, preparation)
    if isinstance(source, Arrays) or not all(
        DIGITS.fullmatch(path.split("/")[0]) for path in source.paths
    ):
        raise ValueError(
            f"{shown(root, PATH)}: expected a folder for each class, named by its number"
        )
    labels = source.labels
    count = len(labels) if limit is None else min(limit, len(labels))
    chosen = draw(labels, n=count) if count < len(labels) else torch.arange(count)
    return source.read(chosen), labels[chosen]


def _from_arrays(arrays: dict[str, Tensor]) -> Arrays:
    """Whichever array has three or four dimensions is of images; one of one, that is called so, of
    labels."""
    images = [name for name, array in arrays.items() if array.dim() in (3, 4)]
    called = [name for name in arrays if name not in images and LABELS.fullmatch(name)]
    if len(images) == len(called) == 1:
        arrays = {**arrays, called[0]: _one_each(arrays[called[0]], len(arrays[images[0]]))}
    labels = [name for name in called if arrays[name].squeeze().dim() <= 1]
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
    others = ", ".join(shown(name) for name in arrays if name not in (*images, *labels))
    notes = [f"arrays that are not called as labels are left out: {shown(others, PATH)}"]
    notes = notes if others else []
    if pixels.dtype == torch.uint8 and pixels.numel() and (highest := int(pixels.max())) <= 1:
        notes.append(
            f"the largest value in {shown(images[0])} is {highest} of 255, so that the images are "
            "nearly black; save values from 0 to 1 as floating point"
        )
    return Arrays(*keep_images(pixels, classes)[:2], notes)


def _one_each(labels: Tensor, count: int) -> Tensor:
    """Labels of `count` images, also where each has a row with a one at its class."""
    if labels.dim() != 2 or len(labels) != count or labels.shape[1] == 1:
        return labels
    rows = labels.double()
    if not bool(((rows == 0) | (rows == 1)).all() and (rows.sum(1) == 1).all()):
        raise ValueError(
            f"labels: expected a class an image, or a row of zeros with a single one, got "
            f"{tuple(labels.shape)} of other numbers"
        )
    return rows.argmax(1)


def _open_folder(root: Path, preparation: Preparation) -> Files:
    inside = sorted(islice(root.iterdir(), MOST_FILES))
    folders = [path for path in inside if path.is_dir() and not path.name.startswith(".")]
    tables = [path for path in inside if path.suffix.lower() == ".csv"]
    if len(tables) > 1:
        raise ValueError(
            f"{shown(root, PATH)}: expected at most one CSV file, got {tables[0].name} and "
            f"{tables[1].name}"
        )
    rows = [(path.name, UNKNOWN) for path in inside if _is_image(path)]
    notes: list[str] = []
    if tables:
        rows, notes = _rows(tables[0])
    else:
        images = {
            folder.name: [path for path in walk(folder) if _is_image(path, folder)]
            for folder in folders
        }
        classes = {name: paths for name, paths in images.items() if paths}
        if classes:
            beside = len(rows)
            numbers, notes = number_folders(shown(root, PATH), list(classes))
            rows = [
                (path.relative_to(root).as_posix(), numbers[name])
                for name, paths in classes.items()
                for path in paths
            ]
            notes += [f"{beside} images beside the folders are left out"] if beside else []
        empty = [name for name in images if name not in classes]
        if empty:
            listed = ", ".join(map(shown, empty))
            notes.append(f"folders without images are left out: {shown(listed, PATH)}")
    if not rows and any(path.suffix.lower() in TABLES for path in walk(root.resolve())):
        raise ValueError(f"{shown(root, PATH)}: {IN_TABLES}")
    if not 1 <= len(rows) <= MOST_FILES:
        raise ValueError(
            f"{shown(root, PATH)}: expected {WHAT}, got {len(rows)} images"
            + (f", over {MOST_FILES}" if rows else "")
        )
    paths, labels = zip(*rows, strict=True)
    return Files(root, paths, torch.tensor(labels), preparation, notes)


def _is_image(path: Path, folder: Path | None = None) -> bool:
    """Whether it is called one, and neither it nor a folder below `folder` that it is in hidden."""
    parts = path.relative_to(folder).parts if folder else (path.name,)
    return path.suffix.lower() in ENDINGS and not any(part.startswith(".") for part in parts)


def _rows(table: Path) -> tuple[list[tuple[str, int]], list[str]]:
    """File and class of each line, and notes on how the classes are numbered."""
    name = shown(table, PATH)
    try:
        content = read_file(table, CSV_LIMIT)
        # Counted before they are parsed, which takes long.
        if content.count(b"\n") > MOST_FILES + 1:
            raise ValueError(f"{name}: expected at most {MOST_FILES} lines")
        lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        rows = list(islice(filter(None, lines), MOST_FILES + 2))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{name}: expected lines of file,label, got {shown(error)}") from error
    if rows and [word.strip().lower() for word in rows[0]][:2] in HEADERS:
        rows = rows[1:]
    if len(rows) > MOST_FILES:
        raise ValueError(f"{name}: expected at most {MOST_FILES} lines")
    files: set[str] = set()
    for row in rows:
        file = row[0]
        root = posixpath.normpath(file) == "."
        if len(row) != 2 or not file or root or os.path.isabs(file) or ".." in file.split("/"):
            raise ValueError(
                f"{name}: expected lines of file,label, files below the folder of the CSV file, "
                f"got {shown(','.join(row))}"
            )
        row[0] = posixpath.normpath(file)
        # The class of one that is named twice is not known, and it would be read many times.
        if row[0] in files:
            raise ValueError(f"{name}: expected each file once, got {shown(file)} again")
        files.add(row[0])
    # It may be a head of other names, which would be a class of its own.
    if rows and not os.path.lexists(table.parent / rows[0][0]):
        raise ValueError(
            f"{name}: expected lines of file,label, perhaps below a line of these two words, got "
            f"{shown(','.join(rows[0]))} first, and there is no such file"
        )
    words = [label.strip() for _, label in rows]
    numbers = number_classes(name, set(words))
    found = [(file, numbers[word]) for (file, _), word in zip(rows, words, strict=True)]
    return found, say_numbers(numbers)
