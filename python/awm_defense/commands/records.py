"""What a command takes from BackdoorBench's files where no option says it."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from awm_defense.commands import options
from awm_defense.data import DATA_DIR_VARIABLE, DATASETS
from awm_defense.files.backdoorbench import ATTACK, Record, read_record
from awm_defense.files.door import MIB
from awm_defense.files.text import shown
from awm_defense.models.backdoorbench import NAMES, normalisation


def find_checkpoint(path: Path) -> Path:
    """A checkpoint; in the place of a folder the file of an attack that is in it."""
    inside = path / ATTACK
    return inside if path.is_dir() and inside.is_file() else path


def read_records(args: argparse.Namespace, checkpoints: Sequence[Path]) -> list[Record]:
    """Those of all checkpoints, and `args` filled in with what they say; none if options do.

    Raises:
        ValueError: where neither says which network it is, or the files differ.
    """
    if args.arch is not None or args.model is not None:
        return []
    records = []
    for checkpoint in checkpoints:
        record = read_record(checkpoint, limit=args.max_file_size * MIB)
        if record is None:
            raise ValueError(
                f"--arch or --model: expected one of them, as {checkpoint} does not say which "
                "network it holds; files of BackdoorBench do"
            )
        records.append(record)
        first, own = (
            (one.model_name, one.num_classes, one.clean_data, one.size)
            for one in (records[0], record)
        )
        if first != own:
            raise ValueError(
                f"{checkpoint}: expected a network and data as of {checkpoints[0]}, {first}, "
                f"got {own}; give one at a time"
            )
    fill_in(args, records[0])
    return records


def fill_in(args: argparse.Namespace, record: Record) -> None:
    """Say by options what a record says; what is given as an option counts more.

    Raises:
        ValueError: where it names a network or a data set that this project does not have.
    """
    if record.model_name not in NAMES:
        raise ValueError(
            f"{record.path}: expected a network {', '.join(NAMES)}, got "
            f"{shown(record.model_name)!r}; --model takes code for others"
        )
    args.arch = f"backdoorbench:{record.model_name}"
    if args.num_classes is None:
        args.num_classes = record.num_classes
    if args.mean is None and args.std is None:
        _normalise(args, record)
    if args.images is None and args.dataset is None and getattr(args, "per_class", None) != 0:
        if record.clean_data not in DATASETS:
            raise ValueError(
                f"--images: expected, as {shown(record.clean_data or 'the data set')} of "
                f"{record.folder} is none of {', '.join(sorted(DATASETS))}"
            )
        args.dataset = record.clean_data
    if args.dataset is None and args.size is None and record.size is not None:
        args.size = list(record.size)
    if args.dataset is not None and args.data_dir is None and not os.environ.get(DATA_DIR_VARIABLE):
        args.data_dir = _data_folder(record)


def _normalise(args: argparse.Namespace, record: Record) -> None:
    try:
        found = normalisation(record.clean_data)
    except ValueError as error:
        options.say(f"note: {error}; --mean and --std say it")
        return
    if found is not None:
        args.mean, args.std = map(list, found)


def _data_folder(record: Record) -> Path | None:
    """Where BackdoorBench looks for the data: its own `data` folder, beside `record`."""
    parts = Path(record.data_path or "").parts
    home = next((up.parent for up in record.folder.resolve().parents if up.name == "record"), None)
    if home is None or "data" not in parts:
        return None
    inside = parts[parts.index("data") :]
    found = home.joinpath(*inside)
    # Unlike a Path, this says no of what no path can be.
    return found if ".." not in inside and os.path.isdir(found) else None
