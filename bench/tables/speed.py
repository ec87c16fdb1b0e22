"""Where the time goes, and how the kernels compare."""

from __future__ import annotations

from typing import Any

from bench.breakdown import as_markdown as profile_table
from bench.calls import as_markdown as calls_table
from bench.common import EAGER, KERNELS
from bench.results import read_run
from bench.run import as_markdown as run_table
from bench.run import by_group, duration
from bench.tables.markdown import table

# Measured with `default` as it was before natural steps and a second search.
FORMER = "until as good as"


def cpu_run(former: bool = False) -> dict[str, Any]:
    """The run on a CPU: its groups with a former `default`, or all others."""
    run = read_run("cpu")
    rows = [row for row in run["rows"] if row["group"].startswith(FORMER) == former]
    return {**run, "rows": rows}


def speed() -> str:
    """Each op and whole purifications: the kernels' time, and how many times that others take."""
    return run_table(cpu_run())


# Of kinds of ops, as `bench.kinds` has them; all others are the rest.
PARTS = {
    "convolutions": ("convolutions, forward", "convolutions, backward"),
    "activations and pooling": ("activations and pooling",),
    "masks": ("masks (mask_step_, masked_weight)",),
    "trigger": ("trigger (perturb, trigger_step_, L1 ball)",),
}
PROFILED = {"small_vgg": "small VGG", "resnet18": "ResNet-18"}


def profile() -> str:
    """The share of each part of a purification."""
    shares = {row["title"]: row["shares"] for row in read_run("breakdown")["rows"]}
    parts = {
        name: [sum(shares[arch][kind] for kind in kinds) for arch in PROFILED]
        for name, kinds in PARTS.items()
    }
    parts["everything else"] = [1 - sum(column) for column in zip(*parts.values(), strict=True)]
    rows = [[name, *(f"{100 * share:.0f} %" for share in found)] for name, found in parts.items()]
    return table(["part", *PROFILED.values()], rows)


def profile_details() -> str:
    """What the time of a purification and of an examination is made of, op by op."""
    return profile_table(read_run("breakdown")["rows"])


def calls() -> str:
    """What the time of one call of each op is made of."""
    return calls_table(read_run("calls")["rows"])


def growth() -> str:
    """How the cost of a pair of steps grows."""
    rows = [
        [
            row["axis"],
            f"{row['value']:,}",
            duration(row["seconds"]),
            f"{row['picoseconds_per_multiply_add']:.1f}",
            f"{row['peak_memory_mb']:.0f}",
        ]
        for row in read_run("growth")["rows"]
    ]
    head = ["what grows", "to", "a pair of steps", "ps an image and multiply-add", "memory, MB"]
    return table(head, rows)


def former_default() -> str:
    """A former `default`, until it was as good as `official` ends: seconds, ACC / ASR."""
    groups = by_group(cpu_run(former=True))
    contestants = (EAGER, "kernels, `official`", KERNELS)
    head = ["network", "`official`, plain PyTorch", "`official`, kernels", "former `default`"]
    rows = [
        [group.rpartition(" ")[2], *(_timed(found[one]) for one in contestants)]
        for group, found in groups.items()
    ]
    return table(head, rows)


def _timed(row: dict[str, Any]) -> str:
    metrics = row["metrics"]
    return f"{row['seconds']:.1f} s, {metrics['acc']:.1f} / {metrics['asr']:.1f}"
