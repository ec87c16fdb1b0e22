"""Running the cells that have no file yet. A killed run loses only the cells in work."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from awm_defense.files import schema
from awm_defense.files.atomic import write_json
from awm_defense.files.folder import output_folder
from awm_defense.files.json_file import read_json
from awm_defense.files.manifest import PERCENT, check
from awm_defense.files.text import PATH, escape, shown
from awm_defense.files.together import check_no_folders, new_folder
from awm_defense.reproduce.cells import Cell, Place, changed_settings
from awm_defense.reproduce.methods import get_method
from awm_defense.reproduce.studies import THRESHOLDS
from awm_defense.reproduce.workers import Outcome, in_processes, in_this_process, on_ray

CELLS = "cells"
# Of a network without a backdoor there is no attack success.
METRICS = schema.mapping(PERCENT, required=("acc",))
# What is read from a result.
FIELDS = {
    "model_sha256": schema.text(),
    "attack_sha256": schema.text(),
    "recipe": schema.optional(schema.mapping(schema.optional(schema.scalar), required=("name",))),
    "device": schema.text(),
    "metrics": METRICS,
    "curve": schema.listing(METRICS, least=len(THRESHOLDS)),
    "shares": schema.listing(PERCENT, least=2),
}
# What a study finds, where it isn't metrics.
FINDINGS = {"perturbed": "shares", "thresholds": "curve"}


@dataclass
class Report:
    """What became of the cells that had no file."""

    run: list[Cell] = field(default_factory=list)
    failed: dict[Cell, str] = field(default_factory=dict)
    """With the error of each."""
    missing: list[Path] = field(default_factory=list)
    """Folders without a finished network; their cells were left out."""


def cell_path(out: Path, cell: Cell) -> Path:
    """Where the result of a cell is kept."""
    return out / CELLS / f"{cell.name}.json"


def read_results(out: Path, cells: Iterable[Cell]) -> dict[Cell, dict[str, Any]]:
    """The results of those cells that have one; ValueError where one is none, or another cell's."""
    paths = {cell: cell_path(out, cell) for cell in cells}
    return {cell: _read_result(path, cell) for cell, path in paths.items() if path.is_file()}


def _read_result(path: Path, cell: Cell) -> dict[str, Any]:
    found = read_json(path, finite=False)
    finding = FINDINGS.get(get_method(cell.method)[0].study, "metrics")
    check(path, schema.record(FIELDS, ("model_sha256", "recipe", "device", finding)), found)
    for name, value in asdict(cell).items():
        # In Python true is 1.
        if name not in found or repr(found[name]) != repr(value):
            got = f"{name} {shown(repr(found[name]))}" if name in found else f"no {name}"
            raise ValueError(
                f"{shown(path, PATH)}: expected the result of the cell that it is named after, "
                f"with {name} {value}, got {got}; move it away"
            )
    return found


def check_results(results: Mapping[Cell, Mapping[str, Any]], place: Place, out: Path) -> list[Cell]:
    """Check that results are of what would be run; cells without a network are left out.

    Returns:
        Those of an earlier version, which don't say with which attack they were measured.

    Raises:
        ValueError: one is of another network, another attack or other settings.
    """
    older = []
    checksums = {place.folder(cell): place.checksum(cell) for cell in _one_a_network(results)}
    for cell, found in results.items():
        folder, path = place.folder(cell), cell_path(out, cell)
        if checksums[folder] is not None:
            if checksums[folder] != found["model_sha256"]:
                raise ValueError(
                    f"out: {path} was measured on another network than {folder} holds; choose "
                    "another folder"
                )
            if "attack_sha256" not in found:
                older.append(cell)
            elif place.attack_checksum(cell) != found["attack_sha256"]:
                raise ValueError(
                    f"out: {path} was measured with another trigger, target or data set than "
                    f"{folder} holds; choose another folder"
                )
        for key, (then, now) in changed_settings(cell, found).items():
            raise ValueError(
                f"out: {path} was measured with {key} {then}, which is {now} in {cell.method} now; "
                "move it away to measure it again, or choose another folder"
            )
    return older


def run_grid(
    cells: Iterable[Cell],
    place: Place,
    out: Path,
    *,
    workers: int = 1,
    ray: str | None = None,
    progress: bool = False,
) -> Report:
    """Run the cells that have no file in `out` and write one for each that ends.

    A cell that fails does not end the others.

    Args:
        cells: which; duplicates count once.
        place: where networks and data are.
        out: folder of the results.
        workers: cells at a time; more than one run in processes of their own.
        ray: address of a Ray cluster to run them on, "auto" or "local"; None for this machine.
        progress: show a bar.

    Raises:
        ValueError: when a result in `out` is that of another cell, or of another network or attack
            than the one in `place`, or was measured with other settings than its method has now;
            when another run is writing to `out`.
        OSError: when `out` can't be written to.
        ImportError: for `ray`, when it is not installed.
    """
    with output_folder(out / CELLS):
        report = Report()
        todo = _unfinished(list(dict.fromkeys(cells)), place, out, report)
        bar = tqdm(_outcomes(todo, place, workers, ray), "cells", len(todo), disable=not progress)
        for outcome in bar:
            if outcome.found is None:
                report.failed[outcome.cell] = outcome.error
            else:
                write_json(_free_path(cell_path(out, outcome.cell)), outcome.found)
                report.run.append(outcome.cell)
            bar.set_postfix_str(outcome.cell.name)
        return report


def _free_path(path: Path) -> Path:
    """`path`, or one in a new folder where something has come meanwhile that is not of this run."""
    if not os.path.lexists(path):
        return path
    free = new_folder(path.parent) / path.name
    tqdm.write(f"note: {escape(str(path))} came meanwhile and is kept; found: {free}", sys.stderr)
    return free


def _unfinished(cells: list[Cell], place: Place, out: Path, report: Report) -> list[Cell]:
    """Cells that have a network and no result; checks that results are of what would be run."""
    check_no_folders(out / CELLS, (cell_path(out, cell).name for cell in cells))
    results = read_results(out, cells)
    checksums = {place.folder(cell): place.checksum(cell) for cell in _one_a_network(cells)}
    report.missing = [folder for folder, checksum in checksums.items() if checksum is None]
    check_results(results, place, out)
    return [
        cell for cell in cells if cell not in results and checksums[place.folder(cell)] is not None
    ]


def _one_a_network(cells: Iterable[Cell]) -> Iterable[Cell]:
    return {(cell.arch, cell.attack): cell for cell in cells}.values()


def _outcomes(cells: list[Cell], place: Place, workers: int, ray: str | None) -> Iterator[Outcome]:
    if not cells:
        return iter(())
    if ray is not None:
        return on_ray(cells, place, ray, workers)
    if workers > 1:
        return in_processes(cells, place, workers)
    return in_this_process(cells, place)
