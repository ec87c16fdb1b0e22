"""GTSRB (Houben et al., IJCNN 2013) from the layout of its official archives."""

import csv
import io
import warnings
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from awm_defense.data.dataset import Dataset
from awm_defense.files.door import MIB, read_file
from awm_defense.files.images import open_images
from awm_defense.files.text import PATH, shown

CLASSES = 43
TRAIN_COUNT, TEST_COUNT = 39_209, 12_630
SIZE = 32
CSV_LIMIT = 16 * MIB
MOST_IMAGES = 100_000
# Of one image; the official ones have at most 250 pixels a side.
IMAGE_SIDE, IMAGE_LIMIT = 1024, 4 * MIB
# Of all in a part: else a file of some bytes that is named often takes hours.
MOST_PIXELS = 1 << 30
COLUMNS = ("Filename", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId")
TRAIN_FOLDER = Path("GTSRB/Final_Training/Images")
TEST_FOLDER = Path("GTSRB/Final_Test/Images")
# The archive with the labels of the test images holds this file alone.
TEST_CSV = "GT-final_test.csv"
WHERE = (
    "unpack GTSRB_Final_Training_Images.zip, GTSRB_Final_Test_Images.zip and "
    "GTSRB_Final_Test_GT.zip from the benchmark's page (benchmark.ini.rub.de), so that "
    f"{TRAIN_FOLDER}, {TEST_FOLDER} and GTSRB/{TEST_CSV} are there"
)

Row = tuple[Path, tuple[int, int, int, int], int]


def load_gtsrb(data_dir: Path | None) -> Dataset:
    """39,209 training and 12,630 test images of 43 traffic signs, kept as uint8.

    Each image is cropped to its region of interest and resized to 32x32 (bilinear, antialiased).
    Other numbers of images than the official ones are read with a warning.

    Args:
        data_dir: the folder that holds `GTSRB`.

    Raises:
        FileNotFoundError: when a folder, a CSV file or an image is missing.
        ValueError: when a CSV file or an image is not what it should be.
    """
    if data_dir is None:
        raise FileNotFoundError(f"gtsrb: no data folder given (data_dir or $AWM_DATA_DIR); {WHERE}")
    train_csvs = sorted((data_dir / TRAIN_FOLDER).glob("*/GT-*.csv"))
    # The archive names no folder for it, so people put it beside GTSRB, too.
    places = [data_dir / "GTSRB" / TEST_CSV, data_dir / TEST_CSV, data_dir / TEST_FOLDER / TEST_CSV]
    test_csvs = [path for path in places if path.is_file()][:1]
    if not train_csvs or not test_csvs:
        lacking = f"{TRAIN_FOLDER}/*/GT-*.csv" if not train_csvs else TEST_CSV
        raise FileNotFoundError(f"gtsrb: {data_dir} lacks {lacking}; {WHERE}")
    train_rows = _few(row for path in train_csvs for row in _rows(path, path.parent))
    test_rows = _few(_rows(test_csvs[0], data_dir / TEST_FOLDER))
    for rows, where in ((train_rows, data_dir / TRAIN_FOLDER), (test_rows, test_csvs[0])):
        if not rows:
            raise ValueError(f"gtsrb: {shown(where, PATH)}: expected at least one image, got none")
    if (len(train_rows), len(test_rows)) != (TRAIN_COUNT, TEST_COUNT):
        warnings.warn(
            f"gtsrb: expected {TRAIN_COUNT} training and {TEST_COUNT} test images, "
            f"got {len(train_rows)} and {len(test_rows)}",
            stacklevel=2,
        )
    names = [str(number) for number in range(CLASSES)]
    # A mirrored sign can be another one: no flips.
    return Dataset("gtsrb", *_read(train_rows), *_read(test_rows), names, crop_padding=2)


def _few(rows: Iterable[Row]) -> list[Row]:
    """The rows, unless they are many times those of GTSRB."""
    found = list(islice(rows, MOST_IMAGES + 1))
    if len(found) > MOST_IMAGES:
        raise ValueError(
            f"gtsrb: {found[-1][0].parent}: expected at most {MOST_IMAGES} images; take lines out "
            "of its CSV files"
        )
    seen: set[Path] = set()
    for path, _, _ in found:
        if path in seen:  # its class is not known, and a small file would be read many times
            raise ValueError(f"gtsrb: {shown(path, PATH)}: named twice; expected each image once")
        seen.add(path)
    return found


def _rows(path: Path, folder: Path) -> Iterator[Row]:
    """Image file, region of interest (left, top, right, bottom) and class of each line."""
    try:
        text = read_file(path, CSV_LIMIT).decode("ascii")
        # Not csv.DictReader, which fills up each line to the columns of the first.
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=";")
        header = next(lines, [])
        if not set(COLUMNS) <= set(header):
            raise ValueError(_unlike(path, ";".join(header)))
        places = [header.index(name) for name in COLUMNS]
        for line in filter(None, lines):
            row = _row(path, folder, line, places)
            # The folders of the training images are numbered by their classes.
            if folder.name.isdecimal() and int(folder.name) != row[-1]:
                raise ValueError(
                    f"{shown(path, PATH)}: expected images of class {int(folder.name)}, as its "
                    f"folder is called, got one of class {row[-1]}"
                )
            yield row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(_unlike(path, error)) from error


def _unlike(path: Path, found: object) -> str:
    columns = ", ".join(COLUMNS)
    return f"{shown(path, PATH)}: expected the columns {columns} of GTSRB, got {shown(found)}"


def _row(path: Path, folder: Path, line: list[str], places: list[int]) -> Row:
    try:
        name, *numbers = (line[place] for place in places)
        left, top, right, bottom, label = map(int, numbers)
    except (IndexError, ValueError) as error:
        raise ValueError(_unlike(path, ";".join(line))) from error
    if not 0 <= label < CLASSES:
        raise ValueError(
            f"{shown(path, PATH)}: expected a class from 0 to {CLASSES - 1}, got {shown(label)}"
        )
    return folder / Path(name).name, (left, top, right, bottom), label


def _read(rows: list[Row]) -> tuple[Tensor, Tensor]:
    images = np.empty((len(rows), SIZE, SIZE, 3), dtype=np.uint8)
    left = MOST_PIXELS
    paths = (path for path, _, _ in rows)
    try:
        with (
            closing(open_images(paths, limit=IMAGE_LIMIT, side=IMAGE_SIDE)) as decoded,
            tqdm(decoded, "reading GTSRB", len(rows), leave=False, disable=None, delay=5) as bar,
        ):
            for index, (image, (path, region, _)) in enumerate(zip(bar, rows, strict=True)):
                left -= image.width * image.height
                if left < 0:
                    raise ValueError(
                        f"{shown(path, PATH)}: expected at most {MOST_PIXELS} pixels in all images "
                        "up to here; make them smaller"
                    )
                images[index] = _sign(image, path, region)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"gtsrb: {error}; {WHERE}") from None
    labels = torch.tensor([label for _, _, label in rows], dtype=torch.int64)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels


def _sign(image: Image.Image, path: Path, region: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """The region of an image, resized."""
    left, top, right, bottom = region
    if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
        raise ValueError(
            f"{shown(path, PATH)}: expected a region in its {image.width}x{image.height} pixels, "
            f"got {shown(region)}"
        )
    return np.asarray(image.crop(region).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
