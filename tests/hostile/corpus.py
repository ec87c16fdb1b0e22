"""All cases, and what became of them in figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.hostile import checkpoints, containers, given, modules, pixels, records, scanners, tricks
from tests.hostile.case import MEMORY, Case, Outcome

KINDS = {
    "checkpoint": "checkpoints",
    "network": "checkpoints whose weights don't fit",
    "training": "states of training",
    "record": "records of BackdoorBench",
    "image": "images",
    "array": "arrays",
    "mask": "masks",
    "arrays": "arrays of images (NPZ)",
    "folder": "photographs in folders",
    "photos": "photographs as they are",
    "table": "tables of files and labels",
    "triggered": "triggered images in folders",
    "config": "settings of Hugging Face networks",
    "processor": "settings of their images",
    "manifest": "manifests",
    "attack": "manifests with the files they name",
    "cell": "results of `awm reproduce`",
    "report": "reports where one is written",
    "cifar10": "batches of CIFAR-10",
    "gtsrb": "lists and images of GTSRB",
}


def all_cases() -> list[Case]:
    """Every case of every kind."""
    kinds = (checkpoints, containers, given, modules, pixels, records, scanners, tricks)
    return [case for kind in kinds for case in kind.cases()]


def table(outcomes: Mapping[Case, Outcome]) -> str:
    """The counts of each kind, in Markdown."""
    heads = (
        "kind of file",
        "files",
        "refused",
        "without its name",
        "read, without harm",
        "executed",
        "over 10 s",
        "tracebacks",
        "over 1 GiB",
    )
    lines = [heads, ("---",) * len(heads)]
    for reader, kind in KINDS.items():
        lines.append(
            (kind, *_counts(found for case, found in outcomes.items() if case.reader == reader))
        )
    lines.append(("**all**", *_counts(outcomes.values())))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _counts(outcomes: Iterable[Outcome]) -> tuple[str, ...]:
    found = list(outcomes)
    counts = (
        len(found),
        sum(one.message is not None for one in found),
        sum(one.message is not None and not one.named for one in found),
        sum(one.message is None and one.traceback is None for one in found),
        sum(one.executed for one in found),
        sum(one.hung for one in found),
        sum(one.traceback is not None for one in found),
        sum(one.memory > MEMORY for one in found),
    )
    return tuple(map(str, counts))
