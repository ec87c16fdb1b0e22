"""The rows of a study, by network: what the tables of erasing, verdicts and parts are made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from bench.results import RESULTS, Measured, Row, read_rows, read_study

# How a network came to be, in the order of the tables.
GROUPS = {
    "published": "Small VGGs that others published, CIFAR-10",
    "signs": "Small VGGs that others published, 43 traffic signs",
    "own": "Small VGGs of our own, CIFAR-10",
    "start": "ResNet-18s trained with a backdoor from the start, CIFAR-10",
    "afterwards": "ResNet-18s with a backdoor trained in afterwards, CIFAR-10",
    "clean": "Networks without a backdoor",
}


@dataclass(frozen=True)
class Network:
    """A row of networks.jsonl.

    Attributes:
        arch, attack: its folder is ARCH/ATTACK.
        group: a key of `GROUPS`.
        planted: the class that its backdoor leads to; None without one.
        role: whether settings were chosen on it.
        kept: whether it still exists; others were examined and are gone.
    """

    arch: str
    attack: str
    group: str
    dataset: str
    trigger: str
    planted: int | None
    role: str
    kept: bool
    sha256: str


@cache
def networks() -> list[Network]:
    return [Network(**row) for row in read_rows(RESULTS / "networks.jsonl")]


def in_group(group: str) -> list[Network]:
    """Those that still exist."""
    return [network for network in networks() if network.group == group and network.kept]


@cache
def study(name: str) -> Measured:
    return read_study(name)


def draws(name: str, network: Network, method: str, n: int | None = None) -> list[Row]:
    """The rows of a method on a network, by seed."""
    if method == "none":
        n = 0
    return [
        row
        for cell, row in study(name).items()
        if (cell.arch, cell.attack, cell.method, cell.n)
        == (network.arch, network.attack, method, n)
    ]


def values(rows: list[Row], metric: str) -> list[float]:
    return [row["metrics"][metric] for row in rows if metric in row["metrics"]]


def title(network: Network) -> str:
    """What tables call a network."""
    return f"ResNet-18, {network.attack}" if network.arch == "resnet18" else network.attack


def verdicts(rows: list[Row]) -> list[dict[str, Any]]:
    return [row["verdict"] for row in rows if "verdict" in row]
