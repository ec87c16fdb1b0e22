"""Options that several commands share, and what is made from them."""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from awm_defense.commands.errors import escape, shorten
from awm_defense.data import DATASETS
from awm_defense.files.checkpoint import load_into, load_state_dict
from awm_defense.models import MODELS, build_model
from awm_defense.pixel_model import find_device
from awm_defense.settings import MOST
from awm_kernels import choose

# More classes than any data set of images has; a network's last layer has as many rows.
MOST_CLASSES = 100_000
# What PyTorch takes as a seed.
SEEDS = (-(2**63), 2**64 - 1)


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    return _whole(text, 1, MOST)


def natural(text: str) -> int:
    """An argparse type: a whole number of at least 0."""
    return _whole(text, 0, MOST)


def class_number(text: str) -> int:
    """An argparse type: the number of a class; which there are is known later."""
    return _whole(text, -MOST_CLASSES, MOST_CLASSES)


def class_count(text: str) -> int:
    """An argparse type: how many classes there are."""
    return _whole(text, 1, MOST_CLASSES)


def seed(text: str) -> int:
    """An argparse type: a seed of random numbers."""
    return _whole(text, *SEEDS)


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


def _number(text: str, expected: str, fits: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and fits(value)):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {_quote(text)}")
    return value


def _whole(text: str, least: int, most: int) -> int:
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


def add_model_options(
    parser: argparse.ArgumentParser,
    metavar: str,
    *,
    nargs: str | None = None,
    required: bool = True,
) -> None:
    """The checkpoint (or several); what builds its network, unless a manifest may tell."""
    parser.add_argument(
        "checkpoint",
        metavar=metavar,
        nargs=nargs,
        type=Path,
        help="safetensors file, or .pt/.pth with a state dict at the top or under net, model or "
        "state_dict; nothing in it is ever executed",
    )
    parser.add_argument(
        "--arch", required=required, choices=sorted(MODELS), help="the architecture"
    )
    parser.add_argument("--num-classes", required=required, type=class_count, metavar="N")
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}",
            type=finite,
            nargs="+",
            metavar="V",
            help=f"{name} per channel (or one for all) of the normalisation that the network "
            "expects on images in [0,1] (default: none)",
        )


def add_data_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The data set and where it lies."""
    parser.add_argument("--dataset", required=required, choices=sorted(DATASETS))
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="folder with the data set in its official layout (default: $AWM_DATA_DIR)",
    )


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


def load_network(args: argparse.Namespace, checkpoint: Path) -> nn.Module:
    """The network of `args.arch` with the weights of `checkpoint`, in eval mode."""
    model = build_model(args.arch, args.num_classes)
    load_into(model, load_state_dict(checkpoint))
    return model.eval()


def get_normalisation(args: argparse.Namespace) -> tuple[list[float] | None, list[float] | None]:
    """(mean, std) as three values each, or (None, None) when neither was given."""
    if (args.mean is None) != (args.std is None):
        raise ValueError("--mean and --std: give both or neither")
    return _per_channel("--mean", args.mean), _per_channel("--std", args.std)


def _per_channel(option: str, values: list[float] | None) -> list[float] | None:
    if values is None or len(values) == 3:
        return values
    if len(values) == 1:
        return values * 3
    raise ValueError(f"{option}: expected one value or three (R G B), got {len(values)}")


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


def print_json(value: object) -> None:
    """One JSON object on standard output."""
    print(json.dumps(value, indent=2))
