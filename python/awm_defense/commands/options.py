"""Options that several commands share, and what is made from them."""

import argparse
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from awm_defense.commands.errors import shorten
from awm_defense.data import DATASETS, IN_A_PACKAGE
from awm_defense.files.text import escape
from awm_defense.inputs.preparation import LEAST_CROP
from awm_defense.pixel_model import find_device
from awm_defense.settings import MOST, SEEDS
from awm_kernels import choose

# More classes than any data set of images has; a network's last layer has as many rows.
MOST_CLASSES = 100_000


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    return whole(text, 1, MOST)


def natural(text: str) -> int:
    """An argparse type: a whole number of at least 0."""
    return whole(text, 0, MOST)


def class_number(text: str) -> int:
    """An argparse type: the number of a class; which there are is known later."""
    return whole(text, -MOST_CLASSES, MOST_CLASSES)


def class_count(text: str) -> int:
    """An argparse type: how many classes there are."""
    return whole(text, 1, MOST_CLASSES)


def seed(text: str) -> int:
    """An argparse type: a seed of random numbers."""
    return whole(text, *SEEDS)


def finite(text: str) -> float:
    """An argparse type: a number other than NaN and infinity."""
    return _number(text, "a finite number", lambda value: True)


def not_negative(text: str) -> float:
    """An argparse type: a number of at least 0."""
    return _number(text, "a number of at least 0", lambda value: value >= 0)


def positive(text: str) -> float:
    """An argparse type: a number above 0."""
    return _number(text, "a number above 0", lambda value: value > 0)


def share(text: str) -> float:
    """An argparse type: a number from 0 to 1."""
    return _number(text, "a number from 0 to 1", lambda value: 0 <= value <= 1)


def mean(text: str) -> float:
    """An argparse type: the mean of pixels in [0,1]."""
    expected = "a number from 0 to 1, as pixels are (127.5 of 255 is 0.5)"
    return _number(text, expected, lambda value: 0 <= value <= 1)


def crop(text: str) -> float:
    """An argparse type: the share of a picture that is kept."""
    expected = f"a number from {LEAST_CROP} to 1"
    return _number(text, expected, lambda value: LEAST_CROP <= value <= 1)


def _number(text: str, expected: str, fits: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and fits(value)):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {_quote(text)}")
    return value


def whole(text: str, least: int, most: int) -> int:
    """What an argparse type of whole numbers does."""
    try:
        value = int(text)
    except ValueError:  # no number, or one of thousands of digits
        raise argparse.ArgumentTypeError(f"expected a whole number, got {_quote(text)}") from None
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(
            f"expected a whole number from {least} to {most}, got {_quote(text)}"
        )
    return value


def _quote(text: str) -> str:
    return repr(shorten(text, 40, 20))


def path(text: str) -> Path:
    """An argparse type: a file or folder. Python would take no name for the current folder."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(
            f"expected the name of a file or folder, got {_quote(text)}"
        )
    return Path(text)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """The data set and where it lies."""
    parser.add_argument("--dataset", required=True, choices=sorted(DATASETS))
    add_data_dir(parser)


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Where data sets lie."""
    parser.add_argument(
        "--data-dir",
        type=path,
        metavar="DIR",
        help="folder with the data set in its official layout (default: $AWM_DATA_DIR)",
    )


def check_data_dir(args: argparse.Namespace, what: str) -> None:
    """Raise ValueError where --data-dir is given, and `what` images come from lies elsewhere."""
    if args.data_dir is not None and (args.dataset is None or args.dataset in IN_A_PACKAGE):
        those = ", ".join(sorted(DATASETS.keys() - IN_A_PACKAGE))
        raise ValueError(f"--data-dir: expected with a data set in a folder ({those}), got {what}")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Where to compute."""
    parser.add_argument(
        "--device", metavar="D", help="cpu, cuda, cuda:1 (default: cuda if there is one, else cpu)"
    )


def get_device(name: str | None) -> torch.device:
    """The device called `name`; ValueError when this machine has none of that name."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return find_device("--device", name)


def add_memory_option(parser: argparse.ArgumentParser) -> None:
    """How much memory to use."""
    parser.add_argument(
        "--max-memory",
        type=positive,
        metavar="GIB",
        help="GiB of memory to stay within, by fewer images at a time (default: 6 on a CPU, and "
        "what a GPU has)",
    )


def run_facts(args: argparse.Namespace, device: torch.device, images: int) -> dict[str, object]:
    """What a report says about the run besides its result."""
    return {
        "images": images,
        "seed": args.seed,
        "device": str(device),
        "backend": choose("auto", torch.empty(0, device=device)),
    }


def say(text: str) -> None:
    """A line about what goes on, to standard error: standard output holds only results."""
    print(escape(text), file=sys.stderr, flush=True)


@contextmanager
def warnings_said() -> Iterator[None]:
    """Warnings are said at once, as notes of one line each."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(f"note: {message}")
        yield


def print_json(value: object) -> None:
    """One JSON object on standard output."""
    print(json.dumps(value, indent=2))
