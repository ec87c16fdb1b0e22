"""Where the time goes, and how the kernels compare."""

from __future__ import annotations

from typing import Any, NamedTuple

from bench.breakdown import as_markdown as profile_table
from bench.calls import as_markdown as calls_table
from bench.common import COMPILED, EAGER, KERNELS
from bench.results import read_run
from bench.run import as_markdown as run_table
from bench.run import duration
from bench.tables.markdown import NOTHING, table

# Of a recipe that is no more.
FORMER = "until as good as"


def _run(former: bool = False) -> dict[str, Any]:
    run = read_run("cpu")
    rows = [row for row in run["rows"] if row["group"].startswith(FORMER) == former]
    return {**run, "rows": rows}


def speed() -> str:
    """Each op and whole purifications: the kernels' time, and how many times that others take."""
    return run_table(_run())


def profile() -> str:
    """What the time of a purification and of an examination is made of."""
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


class Goal(NamedTuple):
    """The kernels are to be `times` as fast as another contestant of a group."""

    group: str
    against: str
    times: float


GOALS = (
    Goal("one-shot `official`, resnet18, 20 of 20 epochs", EAGER, 2.7),
    Goal("one-shot `official`, small_vgg, 20 of 20 epochs", EAGER, 3),
    Goal("mask_step_, 11 M parameters, next weights included", EAGER, 5),
    Goal("mask_step_, 100 M parameters, next weights included", EAGER, 5),
    *(
        Goal(f"l1_project_, {shape}", against, times)
        for against, times in ((EAGER, 10), ("fastprox", 2))
        for shape in ("one 3x32x32", "one 3x224x224", "64 of 3x32x32")
    ),
)


def speed_goals() -> str:
    """What the kernels were to reach, and whether they do."""
    seconds = {(row["group"], row["contestant"]): row["seconds"] for row in _run()["rows"]}
    rows = []
    for goal in GOALS:
        reached = seconds[goal.group, goal.against] / seconds[goal.group, KERNELS]
        met = "yes" if reached >= goal.times else "**no**"
        rows.append([goal.group, goal.against, f"{goal.times:g}×", f"{reached:.2f}×", met])
    return table(["what", "against", "goal", "reached", "met"], rows)


def losses() -> str:
    """Where something else is faster than the kernels."""
    seconds: dict[str, dict[str, float]] = {}
    for row in _run()["rows"]:
        seconds.setdefault(row["group"], {})[row["contestant"]] = row["seconds"]
    rows = []
    for group, found in seconds.items():
        ours = found.pop(KERNELS, None)
        found.pop("copy", None)
        if ours is None or min(found.values()) >= ours:
            continue
        ahead = {name: taken for name, taken in found.items() if taken < ours}
        names = {COMPILED: "torch.compile", EAGER: "eager PyTorch"}
        said = [f"{names.get(one, one)} ({ahead[one] / ours:.2f}×)" for one in ahead]
        rows.append([group, duration(ours), ", ".join(said) or NOTHING])
    return table(["what", "kernels", "who is faster, in how much of the time"], rows)


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
