"""Where the time goes, and how the kernels compare."""

from __future__ import annotations

from typing import Any

from bench.breakdown import as_markdown as profile_table
from bench.calls import as_markdown as calls_table
from bench.common import COMPILED, COPY, EAGER, KERNELS
from bench.results import read_run
from bench.run import as_markdown as run_table
from bench.run import by_group, duration, floor_of, rates_of
from bench.tables.markdown import NOTHING, table

# Measured with `default` as it was before natural steps and a second search.
FORMER = "until as good as"


def _run(former: bool = False) -> dict[str, Any]:
    run = read_run("cpu")
    rows = [row for row in run["rows"] if row["group"].startswith(FORMER) == former]
    return {**run, "rows": rows}


def speed() -> str:
    """Each op and whole purifications: the kernels' time, and how many times that others take."""
    return run_table(_run())


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


RESNET = "one-shot `official`, resnet18, 20 of 20 epochs"
VGG = "one-shot `official`, small_vgg, 20 of 20 epochs"
STEP = "mask_step_, {} parameters, next weights included"
BALL = [f"l1_project_, {shape}" for shape in ("one 3x32x32", "one 3x224x224", "64 of 3x32x32")]
# (group, against, how many times as fast the kernels are to be)
TIMES = [
    (RESNET, EAGER, 2.7),
    (VGG, EAGER, 3),
    *((STEP.format(size), EAGER, 5) for size in ("11 M", "100 M")),
    *((group, EAGER, 10) for group in BALL),
    *((group, "fastprox", 2) for group in BALL),
]
# (group, share of the ceiling that the kernels are to reach)
SHARES = [(RESNET, 0.9), (VGG, 0.9), *((STEP.format(size), 0.8) for size in ("11 M", "100 M"))]
MEMORY = 0.7


def speed_goals() -> str:
    """What the kernels were to reach, and whether they do."""
    groups = by_group(_run())
    rates = rates_of(groups)
    rows = []
    for group, against, goal in TIMES:
        reached = groups[group][against]["seconds"] / groups[group][KERNELS]["seconds"]
        rows.append([group, against, f"{goal:g}×", f"{reached:.2f}×", _met(reached >= goal)])
    for group, goal in SHARES:
        reached = (floor_of(groups[group], rates) or 0.0) / groups[group][KERNELS]["seconds"]
        what = "a copy" if COPY in groups[group] else "the arithmetic alone"
        rows.append([group, what, f"{goal:.0%}", f"{reached:.0%}", _met(reached >= goal)])
    ours, plain = (groups[RESNET][one]["peak_memory_mb"] for one in (KERNELS, EAGER))
    reached = ours / plain
    met = _met(reached <= MEMORY)
    rows.append([f"memory, {RESNET}", EAGER, f"{MEMORY:g}", f"{reached:.2f}", met])
    return table(["what", "against", "goal", "reached", "met"], rows)


def _met(met: bool) -> str:
    return "yes" if met else "**no**"


def losses() -> str:
    """Where something else is faster than the kernels."""
    rows = []
    for group, found in by_group(_run()).items():
        if KERNELS not in found:
            continue
        ours = found[KERNELS]["seconds"]
        seconds = {name: row["seconds"] for name, row in found.items() if name != COPY}
        ahead = {name: taken for name, taken in seconds.items() if taken < ours}
        if not ahead:
            continue
        names = {COMPILED: "torch.compile", EAGER: "eager PyTorch"}
        said = [f"{names.get(one, one)} ({ahead[one] / ours:.2f}×)" for one in ahead]
        rows.append([group, duration(ours), ", ".join(said)])
    return table(["what", "kernels", "who is faster, in how much of the time"], rows)


def former_default() -> str:
    """A former `default`, until it was as good as `official` ends: seconds, ACC / ASR."""
    groups: dict[str, dict[str, Any]] = {}
    for row in _run(former=True)["rows"]:
        groups.setdefault(row["group"].rpartition(" ")[2], {})[row["contestant"]] = row
    contestants = (EAGER, "kernels, `official`", KERNELS)
    head = ["network", "`official`, plain PyTorch", "`official`, kernels", "former `default`"]
    rows = [
        [network, *(_timed(found[one]) for one in contestants)] for network, found in groups.items()
    ]
    return table(head, rows)


def _timed(row: dict[str, Any]) -> str:
    metrics = row["metrics"]
    return f"{row['seconds']:.1f} s, {metrics['acc']:.1f} / {metrics['asr']:.1f}"


def training() -> str:
    """The networks that were trained here, each beside a benign one of as many epochs."""
    found = read_run("train")["rows"]
    twins = {row["epochs"]: row["acc"] for row in found if row["attack"] == "none"}
    rows = []
    for row in found:
        cells = [row["name"], str(row["epochs"]), f"{row['acc']:.2f}"]
        if row["attack"] == "none":
            cells += [NOTHING] * 3
        else:
            cells.append(f"{row['acc'] - twins[row['epochs']]:+.2f}")
            cells += [f"{row[metric]:.2f}" for metric in ("asr", "asr_all")]
        rows.append(cells)
    head = [
        "network",
        "epochs",
        "ACC",
        "against the benign twin",
        "ASR",
        "ASR, target class counted",
    ]
    return table(head, rows)
