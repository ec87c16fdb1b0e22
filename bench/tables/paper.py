"""The paper's tables, measured here: our value and the paper's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from awm_defense.reproduce.cells import Cell
from awm_defense.reproduce.layouts import ATTACKS
from awm_defense.reproduce.methods import METHODS
from awm_defense.reproduce.studies import THRESHOLDS
from awm_defense.reproduce.tables import make_table
from bench.results import RESULTS, Row, read_rows
from bench.tables.markdown import NOTHING, spread, table
from bench.tables.study import study

VGG, RESNET = "small_vgg", "resnet18"
RIVALS = ("anp", "ibau", "awm")
SEEDS = 3
ERASED = 20.0
CLP_U = 3  # its default

Entry = dict[str, Any]


def _entries(name: str, seeds: int = 1) -> Iterator[Entry]:
    """The entries of a table of the paper that were measured here, in its order."""
    found = make_table(name, VGG, study("paper"), seeds=seeds, limit=None)
    for row in found["rows"]:
        for entry in row["entries"]:
            if entry["acc"]["ours"] is not None:
                yield entry


def _pair(entry: Entry | None, whose: str = "ours", asr: str = "asr_all") -> str:
    if entry is None or entry["acc"][whose] is None:
        return NOTHING
    return f"{entry['acc'][whose]:.1f} / {entry[asr][whose]:.1f}"


def _size(n: int | None) -> str:
    return "one a class" if n is None else str(n)


def rivals() -> str:
    """By number of images: ACC / ASR (target class counted), ours and the paper's."""
    found = {(one["attack"], one["n"], one["method"]): one for one in _entries("table1")}
    head = ["trigger", "images"]
    for method in RIVALS:
        head += [METHODS[method].title, "paper"]
    rows = []
    for attack, n in dict.fromkeys((attack, n) for attack, n, _ in found if n):
        cells = [ATTACKS[attack], _size(n)]
        for method in RIVALS:
            one = found.get((attack, n, method))
            cells += [_pair(one), _pair(one, "paper")]
        rows.append(cells)
    return table(head, rows)


def one_shot() -> str:
    """One image a class: ACC / ASR (target class left out), mean over draws."""
    found = {(one["method"], one["attack"]): one for one in _entries("table2", SEEDS)}
    attacks = list(dict.fromkeys(attack for _, attack in found))
    rows = [
        [
            METHODS[method].title,
            *(_pair(found.get((method, attack)), asr="asr") for attack in attacks),
        ]
        for method in dict.fromkeys(method for method, _ in found)
    ]
    return table(["method", *(ATTACKS[attack] for attack in attacks)], rows)


def agreement() -> str:
    """Where each method erases: here and in the paper."""
    cells: dict[str, list[Entry]] = {method: [] for method in (*RIVALS, "anp_swm", "anp_swm_atr")}
    for name in ("table1", "table4"):
        for one in _entries(name):
            if one["method"] in cells and one["acc"]["paper"] is not None:
                same = [(other["attack"], other["n"]) for other in cells[one["method"]]]
                if (one["attack"], one["n"]) not in same:
                    cells[one["method"]].append(one)
    head = ["method", "settings compared", "erases in both", "here only", "in the paper only"]
    head += ["in neither", "accuracy here, less the paper's"]
    return table(head, (_agreed(method, found) for method, found in cells.items()))


def _agreed(method: str, found: list[Entry]) -> list[str]:
    erased = [tuple(one["asr_all"][whose] < ERASED for whose in ("ours", "paper")) for one in found]
    counts = [erased.count(both) for both in ((True, True), (True, False), (False, True))]
    counts.append(erased.count((False, False)))
    apart = [one["acc"]["difference"] for one in found]
    return [METHODS[method].title, str(len(found)), *map(str, counts), spread(apart)]


def awm_parts() -> str:
    """AWM without each of its parts (Table 5): ACC / ASR (target class left out), one draw."""
    found = {(one["method"], one["n"], one["attack"]): one for one in _entries("table5")}
    methods = dict.fromkeys(method for method, *_ in found)
    places = dict.fromkeys((n, attack) for _, n, attack in found if attack != "l0_inv")
    head = ["", *(f"{ATTACKS[attack]}, {_size(n)}" for n, attack in places)]
    rows = [
        [
            METHODS[method].title,
            *(_pair(found.get((method, *place)), asr="asr") for place in places),
        ]
        for method in methods
    ]
    return table(head, rows)


def fine_tuning() -> str:
    """Fine-tuning and Fine-Pruning with 2500 images: ACC / ASR, one draw."""
    methods = ("finetune", "finetune+epochs=100", "fineprune", "fineprune+epochs=100")
    places = dict.fromkeys(
        (cell.arch, cell.attack, cell.limit) for cell in study("paper") if cell.n == 2500
    )
    rows = []
    for arch, attack, limit in sorted(places, reverse=True):
        cells = [Cell(arch, attack, 0, "none", 0, limit)]
        cells += [Cell(arch, attack, 2500, method, 0, limit) for method in methods]
        rows.append([_network(arch, attack), *map(_measured, cells)])
    head = ["network", "before", "fine-tuning, 20 epochs", "100 epochs"]
    return table([*head, "Fine-Pruning, 20 epochs", "100 epochs"], rows)


def clp() -> str:
    """CLP at its default, and with a smaller u: ACC / ASR, channels cut."""
    found = {
        (cell.arch == RESNET, cell.attack, -float(cell.method.partition("=")[2] or CLP_U)): cell
        for cell in study("paper")
        if cell.method.startswith("clp") and cell.seed == 0
    }
    rows = []
    for (_, _, u), cell in sorted(found.items()):
        before = Cell(cell.arch, cell.attack, 0, "none", 0, cell.limit)
        cut = study("paper")[cell]["notes"][0].removesuffix(" channels are cut")
        name = _network(cell.arch, cell.attack)
        rows.append([name, f"{-u:g}", _measured(before), _measured(cell), cut])
    return table(["network", "u", "before", "CLP", "channels cut"], rows)


def anp_thresholds() -> str:
    """ANP by threshold, 500 images: ACC / ASR."""
    rows = []
    for cell, row in study("paper").items():
        if not cell.method.startswith("anp_thresholds"):
            continue
        settings = cell.method.partition("+")[2].replace("+", ", ") or "ours"
        points = [f"{point['acc']:.0f} / {point['asr']:.0f}" for point in row["curve"]]
        rows.append([_network(cell.arch, cell.attack), settings, *points])
    return table(["network", "settings", *(f"{step:g}" for step in THRESHOLDS)], rows)


def elsewhere() -> str:
    """What others published of a method, and the nearest that was measured here."""
    return table(
        ["method", "published by", "on", "before", "after", "here", "before", "after"],
        map(_beside, read_rows(RESULTS / "published.jsonl")),
    )


def _beside(row: Row) -> list[str]:
    arch, attack, n = row["here"]
    limit = 2000 if arch == RESNET else None
    before = Cell(arch, attack, 0, "none", 0, limit)
    after = Cell(arch, attack, n, row["method"], 0, limit)
    published = [f"{acc:.1f} / {asr:.1f}" for acc, asr in (row["before"], row["after"])]
    return [
        METHODS[row["method"]].title,
        row["source"],
        f"{row['network']}, {row['attack']}",
        *published,
        _network(arch, attack),
        _measured(before),
        _measured(after),
    ]


def _network(arch: str, attack: str) -> str:
    return f"{'ResNet-18' if arch == RESNET else 'VGG'}, {ATTACKS.get(attack, attack)}"


def _measured(cell: Cell) -> str:
    row = study("paper").get(cell)
    if row is None:
        return NOTHING
    metrics = row["metrics"]
    return f"{metrics['acc']:.1f} / " + (f"{metrics['asr']:.1f}" if "asr" in metrics else NOTHING)
