"""Goals for the kernels, and where something else is faster."""

from __future__ import annotations

from bench.common import COMPILED, COPY, EAGER, KERNELS
from bench.run import by_group, duration, floor_of, rates_of
from bench.tables.markdown import table
from bench.tables.speed import cpu_run

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
    groups = by_group(cpu_run())
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
    for group, found in by_group(cpu_run()).items():
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
