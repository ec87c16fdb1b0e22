"""What the examination says of networks, against the truth."""

from __future__ import annotations

from bench.tables.markdown import NOTHING, span, table
from bench.tables.study import Network, draws, networks, title, verdicts


def verdict_table() -> str:
    """What the examination said of each network, and whether it is so."""
    head = ["network", "trigger", "class planted", "looked backdoored", "class named", "scores"]
    return table([*head, "decided by the second question", "settings were"], map(_said, networks()))


def _said(network: Network) -> list[str]:
    found = verdicts(draws("erasing", network, "default") or draws("verdicts", network, "examine"))
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
