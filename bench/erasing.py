"""What each recipe of ours makes of networks, from one clean image a class.

python -m bench.erasing NETS --data-dir DATA --out OUT --seeds 5 --workers 2

NETS holds a folder ARCH/NAME of each network, as train_own.sh and adopt_ibau.sh write them.
Cells are those of `awm reproduce`: OUT/cells has a file for each that ended, and the same command
goes on. OUT/erasing.jsonl has them all in short, OUT/erasing.md the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from awm_defense.files.manifest import NAME, read_manifest
from awm_defense.reproduce.cells import Cell, Place
from awm_defense.reproduce.grid import read_results, run_grid
from awm_defense.reproduce.summary import Results, describe, with_seeds
from bench.results import compact, write_study
from bench.tables.markdown import NOTHING, spread
from bench.tables.markdown import table as markdown_table

RECIPES = {"official": "awm", "paper": "paper", "default": "default"}
METRICS = ("acc", "asr", "asr_all", "ra", "target_acc")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.erasing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("nets", type=Path, metavar="NETS")
    parser.add_argument("--data-dir", type=Path, help="(default: $AWM_DATA_DIR)")
    parser.add_argument("--out", required=True, type=Path, help="folder to write to")
    parser.add_argument("--seeds", type=int, default=5, help="draws of images (5)")
    parser.add_argument("--n", type=int, help="images in all, instead of one a class")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--methods", nargs="+", default=[], help="also these, default+grown=0, say")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these networks only")
    parser.add_argument("--workers", type=int, default=1, help="cells at a time (1)")
    parser.add_argument(
        "--tables-only", action="store_true", help="run nothing: tables of what OUT/cells holds"
    )
    given = parser.parse_args()
    methods = {name: RECIPES[name] for name in given.recipes} | {m: m for m in given.methods}
    rows = dict(plan(given.nets, given.only, given.n, methods))
    if not rows:
        names = f", NAME of {', '.join(given.only)}" if given.only else ""
        parser.error(f"NETS: expected folders ARCH/NAME with a {NAME}{names}, got {given.nets}")
    seeds = {cell: with_seeds(cell, given.seeds) for row in rows.values() for cell in row.values()}
    cells = [cell for mine in seeds.values() for cell in mine]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    place = Place(given.nets.resolve(), given.data_dir, device)
    todo = [] if given.tables_only else cells
    report = run_grid(todo, place, given.out, workers=given.workers, progress=True)
    results = read_results(given.out, cells)
    lines = list(measured(rows, seeds, results))
    tables = [table(lines), verdict_table(given.nets, lines)]
    text = "\n\n".join([*tables, describe(cells, results, None)]) + "\n"
    (given.out / "erasing.md").write_text(text)
    compacted = (compact(cell, found) for cell, found in results.items())
    write_study(given.out / "erasing.jsonl", compacted)
    print(text)
    for cell, error in report.failed.items():
        print(f"{cell.name} failed: {error}")
    for folder in report.missing:
        print(f"{folder} has no finished network")


def plan(
    nets: Path, only: list[str] | None, n: int | None, methods: dict[str, str]
) -> Iterator[tuple[str, dict[str, Cell]]]:
    """Each network's title, and the cell of each method."""
    for manifest in sorted(nets.glob(f"*/*/{NAME}")):
        arch, name = manifest.parts[-3:-1]
        if only is None or name in only:
            row = {"before": Cell(arch, name, 0, "none")}
            row |= {title: Cell(arch, name, n, method) for title, method in methods.items()}
            yield f"{arch}, {read_manifest(manifest)['dataset']}, {name}", row


class Line(NamedTuple):
    """What was measured of one method on one network, over seeds."""

    network: str
    title: str
    cell: Cell
    found: list[Mapping[str, Any]]


def measured(
    rows: dict[str, dict[str, Cell]], seeds: dict[Cell, list[Cell]], results: Results
) -> Iterator[Line]:
    """The lines of the tables that there are results for, in order."""
    for network, row in rows.items():
        for title, cell in row.items():
            found = [results[one] for one in seeds[cell] if one in results]
            if found:
                yield Line(network, title, cell, found)


def table(lines: list[Line]) -> str:
    """A line for each network and recipe: mean ± standard deviation over seeds."""
    head = ["network", "recipe", "ACC", "ASR", "asr_all", "RA", "target_acc", "seconds", "seeds"]
    rows = []
    for network, title, _, found in lines:
        values = [
            spread([one["metrics"][name] for one in found if name in one["metrics"]])
            for name in METRICS
        ]
        seconds = spread([one["seconds"] for one in found if "seconds" in one], 0)
        rows.append([network, title, *values, seconds, str(len(found))])
    return markdown_table(head, rows)


def verdict_table(nets: Path, lines: list[Line]) -> str:
    """What the recipes that examine first said of each network, and its truth."""
    head = ["network", "recipe", "planted class", "looked backdoored", "class named"]
    rows = []
    for network, title, cell, found in lines:
        verdicts = [one["verdict"] for one in found if one.get("verdict")]
        if not verdicts:
            continue
        truth = read_manifest(nets / cell.arch / cell.attack / NAME)
        planted = truth.get("target")
        seen = [verdict for verdict in verdicts if verdict["backdoored"]]
        named = sum(verdict["target"] == planted for verdict in seen)
        none = "all" if truth.get("mapping") == "all-to-all" else "none"
        cells = [network, title, none if planted is None else str(planted)]
        cells += [f"{len(seen)} of {len(verdicts)}"]
        cells += [NOTHING if planted is None else f"{named} of {len(verdicts)}"]
        cells += [", ".join(score(verdict) for verdict in verdicts)]
        cells += [", ".join(sorted({f"{v['norm']:g} {v['unit']}" for v in seen})) or NOTHING]
        rows.append(cells)
    return markdown_table([*head, "scores (*: by the second question)", "by"], rows)


def score(verdict: Mapping[str, Any]) -> str:
    """A verdict's score, marked where the second question made the network count as backdoored."""
    second = verdict["backdoored"] and verdict.get("surest") is not None
    return f"{verdict['score']:.1f}" + ("*" if second else "")


if __name__ == "__main__":
    main()
