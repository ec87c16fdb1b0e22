"""`default` on digits, on networks of other kinds."""

from __future__ import annotations

from statistics import fmean

from bench.results import RESULTS, Row, read_rows
from bench.tables.markdown import NOTHING, table


def digits() -> str:
    """A row a kind of network: ACC and ASR in means, and the worst run's ASR and points lost."""
    rows = list(read_rows(RESULTS / "digits.jsonl"))
    kinds = list(dict.fromkeys((row["network"], row["benign"]) for row in rows))
    head = ["network", "runs", "named right", "ACC / ASR before", "after", "worst ASR"]
    return table(
        [*head, "most points lost"],
        [
            _line(kind, [row for row in rows if (row["network"], row["benign"]) == kind])
            for kind in sorted(kinds, key=lambda kind: kind[1])
        ],
    )


def _line(kind: tuple[str, bool], rows: list[Row]) -> list[str]:
    network, benign = kind
    named = sum(row["verdict"]["backdoored"] and row["verdict"]["target"] == 8 for row in rows)
    alarms = sum(bool(row["verdict"]["backdoored"]) for row in rows)
    lost = max(row["before"]["acc"] - row["after"]["acc"] for row in rows)
    return [
        f"{network}, no backdoor" if benign else network,
        str(len(rows)),
        f"{alarms} false alarms" if benign else f"{named} of {len(rows)}",
        _pair([row["before"] for row in rows]),
        _pair([row["after"] for row in rows]),
        NOTHING if benign else f"{max(row['after']['asr'] for row in rows):.1f}",
        f"{lost:.1f}",
    ]


def _pair(measured: list[dict[str, float]]) -> str:
    names = [name for name in ("acc", "asr") if name in measured[0]]
    return " / ".join(f"{fmean(one[name] for one in measured):.1f}" for name in names)
