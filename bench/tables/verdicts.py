"""What the examination says of networks, against the truth."""

from __future__ import annotations

from typing import Any

from bench.tables.markdown import NOTHING, span, table
from bench.tables.study import Network, draws, networks, title, verdicts

VGG, RESNET = "small_vgg", "resnet18"
UNTRAINED = "own_benign2"  # two epochs


def _kind(network: Network) -> str:
    if network.planted is not None:
        if network.arch == VGG:
            return "small VGG with a backdoor"
        when = "afterwards" if network.group == "afterwards" else "from the start"
        return f"ResNet-18, backdoor trained in {when}"
    if network.arch == RESNET:
        return "ResNet-18 without a backdoor"
    how = "hardly trained" if network.attack == UNTRAINED else "trained to the end"
    return f"small VGG without a backdoor, {how}"


def by_kind() -> str:
    """How often the examination is right, by kind of network."""
    kinds: dict[str, list[Network]] = {}
    for network in networks():
        kinds.setdefault(_kind(network), []).append(network)
    head = ["networks", "how many", "looked backdoored", "right class named"]
    return table(head, [_tally(name, found) for name, found in kinds.items()])


def _tally(name: str, found: list[Network]) -> list[str]:
    said = [(network.planted, one) for network in found for one in _verdicts(network)]
    seen = sum(one["backdoored"] for _, one in said)
    named = sum(one["backdoored"] and one["target"] == planted for planted, one in said)
    return [
        name,
        str(len(found)),
        f"{seen} of {len(said)} draws",
        NOTHING if found[0].planted is None else f"{named} of {len(said)} draws",
    ]


def by_network() -> str:
    """What the examination said of each network."""
    head = ["network", "trigger", "class planted", "looked backdoored", "class named", "scores"]
    return table([*head, "decided by the second question", "settings were"], map(_said, networks()))


def _said(network: Network) -> list[str]:
    found = _verdicts(network)
    seen = [one for one in found if one["backdoored"]]
    named = sum(one["target"] == network.planted for one in seen)
    return [
        title(network),
        network.trigger,
        NOTHING if network.planted is None else str(network.planted),
        f"{len(seen)} of {len(found)}",
        NOTHING if network.planted is None else f"{named} of {len(found)}",
        span([one["score"] for one in found]),
        str(sum("surest" in one for one in seen)),
        network.role,
    ]


def _verdicts(network: Network) -> list[dict[str, Any]]:
    if network.kept:
        return verdicts(draws("erasing", network, "default"))
    return verdicts(draws("verdicts", network, "examine"))
