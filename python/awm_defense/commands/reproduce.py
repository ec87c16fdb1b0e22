"""`awm reproduce`: a table or figure of the AWM paper, measured anew."""

import argparse
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PureWindowsPath
from typing import Any

import torch

from awm_defense.commands import options
from awm_defense.commands.errors import shorten
from awm_defense.commands.output import say_where
from awm_defense.files.atomic import as_json
from awm_defense.files.folder import output_folder
from awm_defense.files.text import escape
from awm_defense.files.together import check_replaceable, write_together
from awm_defense.models import MODELS
from awm_defense.reproduce.cells import Cell, Place
from awm_defense.reproduce.figures import (
    FIGURES,
    ONE_ATTACK,
    figure_as_png,
    figure_cells,
    make_figure,
)
from awm_defense.reproduce.grid import CELLS, Report, check_results, read_results, run_grid
from awm_defense.reproduce.layouts import MAIN_NETWORK, ONE_NETWORK, TABLES
from awm_defense.reproduce.methods import METHODS
from awm_defense.reproduce.tables import make_table, render, table_cells
from awm_defense.working.precision import PRECISIONS

ENTRIES = ("title", "measured")
"""That every table and figure has."""
# Each is a cell that takes minutes; a billion would fill the memory.
MOST_SEEDS = 1000
MOST_FILTER = 1000
"""Characters of a filter."""
# Bytes of a folder's name, which becomes a part of the names of files.
MOST_NAME = 100
CHOICES = (*TABLES, *FIGURES)
WITH_ARCH = (*ONE_NETWORK, *FIGURES)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `awm reproduce` to the command line."""
    parser = commands.add_parser(
        "reproduce",
        help="a table or figure of the AWM paper, measured anew",
        description="Runs the cells of a table or figure (network x attack x images x method x "
        f"seed) and writes each to OUT/{CELLS} when it ends. The same command goes on where a run "
        "was ended; cells serve every table and figure that has them.",
    )
    parser.add_argument("what", choices=CHOICES, metavar="WHAT", help=", ".join(CHOICES))
    parser.add_argument(
        "--models",
        required=True,
        type=options.path,
        metavar="DIR",
        help="holds a folder ARCH/ATTACK of each network, as bench/train_all.sh writes them",
    )
    parser.add_argument(
        "--data-dir",
        type=options.path,
        metavar="DIR",
        help="folder with the data sets in their official layout (default: $AWM_DATA_DIR)",
    )
    parser.add_argument(
        "--out", required=True, type=options.path, metavar="DIR", help="folder to write to"
    )
    parser.add_argument(
        "--cells",
        metavar="FILTER",
        help="run only these, and measure each of their networks as it is: words with commas "
        "between them, each of which must match the network, attack, n, method or seed; * and ? "
        "stand for other characters, | for or, as in "
        f"'resnet18,badnets|trojan_*,n200|one-shot,awm,seed0'; methods: {', '.join(METHODS)}",
    )
    parser.add_argument("--seeds", type=seeds, default=1, metavar="N", help="seeds 0 to N-1 (1)")
    parser.add_argument(
        "--limit",
        type=options.positive_int,
        metavar="N",
        help="measure on the first N test images only",
    )
    parser.add_argument(
        "--workers",
        type=options.positive_int,
        default=1,
        metavar="N",
        help="cells at a time, each with 1/N of the cores (1); on this machine at most one a core",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run on a Ray cluster: its address, auto, or local; networks and data must lie under "
        "the same paths on every machine; a cell takes one GPU with --device cuda",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="that methods compute in (auto); I-BAU takes float32 only; finished cells stay as "
        "they are",
    )
    parser.add_argument(
        "--arch",
        choices=sorted(MODELS),
        help=f"another network than {MAIN_NETWORK}, in {', '.join(WITH_ARCH)}",
    )
    parser.add_argument(
        "--attack",
        type=folder_name,
        metavar="NAME",
        help="another attack (a folder of a network) than "
        + ", ".join(f"{attack} in {what}" for what, attack in ONE_ATTACK.items()),
    )
    options.add_run_options(parser)
    parser.set_defaults(run=run)


def seeds(text: str) -> int:
    """An argparse type: how many seeds."""
    return options.whole(text, 1, MOST_SEEDS)


def folder_name(text: str) -> str:
    """An argparse type: the name of a folder, which names of files can have in them, too."""
    # Windows has more that separates folders than other systems.
    plain = PureWindowsPath(text).name == text and text.strip(". ") and text.isprintable()
    if not plain or len(text.encode()) > MOST_NAME:
        raise argparse.ArgumentTypeError(
            f"expected the name of a folder, of at most {MOST_NAME} bytes, "
            f"got {shorten(text, 40, 20)!r}"
        )
    return text


def select(cells: list[Cell], text: str) -> list[Cell]:
    """The cells that a filter names, and their networks without a defense."""
    if len(text) > MOST_FILTER:
        raise ValueError(f"--cells: expected at most {MOST_FILTER} characters, got {len(text)}")
    words = [word.strip().split("|") for word in text.split(",")]

    def matches(cell: Cell) -> bool:
        return all(any(fnmatchcase(p, w) for w in word for p in cell.parts) for word in words)

    chosen = {cell for cell in cells if matches(cell)}
    if not chosen:
        known = "; ".join(
            ", ".join(dict.fromkeys(values))
            for values in zip(*(c.parts for c in cells), strict=True)
        )
        raise ValueError(
            f"--cells: expected words that some of {len(cells)} cells have together, got {text!r}; "
            f"they are {known}"
        )
    networks = {(cell.arch, cell.attack) for cell in chosen}
    return [
        cell
        for cell in cells
        if cell in chosen or (cell.method == "none" and (cell.arch, cell.attack) in networks)
    ]


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then write the table or figure; 1 if a cell failed."""
    for option, those in (("arch", WITH_ARCH), ("attack", tuple(ONE_ATTACK))):
        if getattr(args, option) and args.what not in those:
            raise ValueError(f"--{option}: expected with {', '.join(those)} only, got {args.what}")
    arch = args.arch or MAIN_NETWORK
    amount = {"seeds": args.seeds, "limit": args.limit}
    if args.what in TABLES:
        cells = table_cells(TABLES[args.what](arch), **amount)
    else:
        plot = FIGURES[args.what](arch, args.attack or ONE_ATTACK.get(args.what, ""))
        cells = figure_cells(plot, **amount)
    chosen = select(cells, args.cells) if args.cells else cells
    names = f"{args.what}.json", f"{args.what}.{'md' if args.what in TABLES else 'png'}"
    check_replaceable(args.out, names, sign=names[0], entries=ENTRIES)
    place = _place(args)
    # Also those that are only shown.
    older = check_results(read_results(args.out, cells), place, args.out)
    if older:
        options.say(
            f"note: {len(older)} results of an earlier version, {older[0].name} among them, don't "
            "say with which trigger they were measured; they are kept"
        )
    with output_folder(args.out):
        try:
            report = run_grid(
                chosen,
                place,
                args.out,
                workers=args.workers,
                ray=args.ray,
                progress=True,
            )
        except KeyboardInterrupt:
            options.say("the same command goes on with the cells that are not finished")
            raise
        results = read_results(args.out, cells)
        _tell(report)
        if not results:
            options.say(
                "nothing is measured, so nothing is written"
                + (
                    ""
                    if args.arch or args.what not in WITH_ARCH
                    else "; --arch takes another network"
                )
            )
            return 1
        if args.what in TABLES:
            _write_table(args.out, args.what, make_table(args.what, arch, results, **amount))
        else:
            _write_figure(args.out, args.what, make_figure(plot, results, **amount))
    return 1 if report.failed else 0


def _place(args: argparse.Namespace) -> Place:
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if args.ray is None:  # the machines of a cluster may have what this one lacks
        options.get_device(device)
    data_dir = args.data_dir and args.data_dir.resolve()
    return Place(args.models.resolve(), data_dir, device, args.precision)


def _write_table(out: Path, name: str, table: Mapping[str, Any]) -> None:
    text = render(table)
    _write(out, name, table, f"{name}.md", text.encode("utf-8"))
    print(text, end="")


def _write_figure(out: Path, name: str, figure: Mapping[str, Any]) -> None:
    written = _write(out, name, figure, f"{name}.png", figure_as_png(figure))
    print(f"{figure['title']}: {figure['measured']}")
    print(escape(str(written / f"{name}.png")))


def _write(out: Path, name: str, content: Mapping[str, Any], other: str, data: bytes) -> Path:
    sign = f"{name}.json"
    files = {other: data, sign: as_json(content)}
    written = write_together(out, files, sign=sign, entries=ENTRIES)
    say_where(out, written)
    return written


def _tell(report: Report) -> None:
    if report.missing:
        options.say(f"no network in {', '.join(map(str, report.missing))}")
    for error in dict.fromkeys(report.failed.values()):
        names = [cell.name for cell, found in report.failed.items() if found == error]
        others = "" if len(names) == 1 else f" and {len(names) - 1} more"
        options.say(f"failed: {names[0]}{others}: {error}")
    if report.failed:
        options.say(f"{len(report.failed)} cells failed; the same command tries them again")
