"""What the recipes make of networks."""

from __future__ import annotations

from statistics import fmean
from typing import NamedTuple

from bench.results import Row
from bench.tables.markdown import NOTHING, mean, span, spread, table
from bench.tables.study import GROUPS, Network, draws, in_group, title, values, verdicts

# By the names of `awm reproduce`; `awm` is the recipe `official`.
RECIPES = {"official": "awm", "paper": "paper", "default": "default"}
MANY = 500
MINUTES = 120.0  # from here on times are told in them


class Outcome(NamedTuple):
    """What `default` made of a network, means over draws."""

    network: Network
    acc: float
    asr: float
    lost: float
    left: float


def outcome(network: Network, n: int | None = None) -> Outcome:
    before, after = draws("erasing", network, "none"), draws("erasing", network, "default", n)
    acc, asr = fmean(values(before, "acc")), fmean(values(before, "asr") or [0.0])
    left = fmean(values(after, "asr") or [0.0])
    return Outcome(network, acc, asr, acc - fmean(values(after, "acc")), left)


class Line(NamedTuple):
    """A line of `expect`: the networks of some groups, those found or those not found."""

    name: str
    groups: tuple[str, ...]
    found: bool = True


LINES = (
    Line("small VGG, CIFAR-10", ("published", "own")),
    Line("small VGG, 43 traffic signs", ("signs",)),
    Line("ResNet-18, CIFAR-10", ("start",)),
    Line("ResNet-18, backdoor trained in afterwards, found", ("afterwards",)),
    Line("the same, not found", ("afterwards",), found=False),
    Line("no backdoor", ("clean",), found=False),
)


def expect() -> str:
    """One row a kind of network, from the best to the worst of its networks."""
    head = ["network", "attack success before", "after", "points of accuracy lost"]
    return table([*head, "time, one CPU core"], map(_expected, LINES))


def _expected(line: Line) -> list[str]:
    everything = [network for group in line.groups for network in in_group(group)]
    chosen = [network for network in everything if _found(network) == line.found]
    results = [outcome(network) for network in chosen]
    planted = [one for one in results if one.network.planted is not None]
    seconds = [row["seconds"] for one in chosen for row in draws("erasing", one, "default")]
    return [
        f"{line.name}: {_count(len(chosen), len(everything))}",
        f"{span([one.asr for one in planted])} %" if planted else NOTHING,
        f"{span([one.left for one in planted])} %" if planted else NOTHING,
        span([one.lost for one in results]),
        _time(seconds),
    ]


def _found(network: Network) -> bool:
    """Whether any draw took it for backdoored."""
    return any(one["backdoored"] for one in verdicts(draws("erasing", network, "default")))


def _count(chosen: int, everything: int) -> str:
    of = "" if chosen == everything else f" of {everything}"
    return f"{chosen}{of} networks"


def _time(seconds: list[float]) -> str:
    if min(seconds) < MINUTES:
        return f"{span(seconds, 0)} s"
    return f"{span([taken / 60 for taken in seconds], 0)} min"


class Goal(NamedTuple):
    """At most `left` percent of attack success for at most `lost` points of accuracy."""

    group: str
    left: float
    lost: float
    n: int | None = None


GOALS = (
    Goal("published", 10, 8),
    Goal("published", 3, 2, MANY),
    Goal("signs", 5, 5),
    Goal("start", 5, 4),
    Goal("afterwards", 5, 4),
    Goal("clean", 0, 1),
)


def goals() -> str:
    """What this project set itself, and which networks met it on the mean over draws."""
    head = ["networks", "images", "attack success, at most", "points lost, at most", "met by"]
    return table([*head, "missed by"], map(_judged, GOALS))


def _judged(goal: Goal) -> list[str]:
    found = [outcome(network, goal.n) for network in in_group(goal.group)]
    missed = [one for one in found if one.left > goal.left or one.lost > goal.lost]
    names = [f"{title(one.network)} ({one.left:.1f} %, {one.lost:.1f} points)" for one in missed]
    return [
        GROUPS[goal.group],
        "one a class" if goal.n is None else str(goal.n),
        NOTHING if goal.group == "clean" else f"{goal.left:g} %",
        f"{goal.lost:g}",
        f"{len(found) - len(missed)} of {len(found)}",
        ", ".join(names) or NOTHING,
    ]


def erasing() -> str:
    """The recipes side by side, ACC / ASR, means over draws; points lost by `default`."""
    head = ["network", "trigger", "before", *RECIPES, "points lost by `default`", "settings were"]
    return table(head, map(_side_by_side, _measured()))


def _measured() -> list[Network]:
    return [network for group in GROUPS for network in in_group(group)]


def _side_by_side(network: Network) -> list[str]:
    cells = [_pair(draws("erasing", network, method)) for method in ("none", *RECIPES.values())]
    return [
        title(network),
        network.trigger,
        *cells,
        f"{outcome(network).lost:.1f}",
        network.role,
    ]


def _pair(rows: list[Row]) -> str:
    if not rows:
        return NOTHING
    return f"{mean(values(rows, 'acc'))} / {mean(values(rows, 'asr'))}"


def details() -> str:
    """What `default` made of each network: spread over draws, the worst draw, the target class."""
    head = ["network", "draws", "ACC", "ASR", "worst ASR", "RA", "ACC on the target class"]
    return table([*head, "seconds"], map(_detail, _measured()))


def _detail(network: Network) -> list[str]:
    before, after = draws("erasing", network, "none"), draws("erasing", network, "default")
    asr = values(after, "asr")
    target = NOTHING
    if values(after, "target_acc"):
        target = spread(values(after, "target_acc"))
        if values(before, "target_acc"):
            target = f"{mean(values(before, 'target_acc'))} → {target}"
    return [
        title(network),
        str(len(after)),
        spread(values(after, "acc")),
        spread(asr),
        f"{max(asr):.1f}" if asr else NOTHING,
        spread(values(after, "ra")),
        target,
        spread([row["seconds"] for row in after], 0),
    ]


def more_images() -> str:
    """`default` with 500 images beside one a class, ACC / ASR."""
    rows = [
        [
            title(network),
            _pair(draws("erasing", network, "none")),
            _pair(draws("erasing", network, "default")),
            _pair(draws("erasing", network, "default", MANY)),
        ]
        for network in in_group("published")
    ]
    return table(["network", "before", "one image a class", f"{MANY} images"], rows)
