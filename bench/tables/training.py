"""The backdoored networks that were trained here."""

from __future__ import annotations

from bench.results import read_run
from bench.tables.markdown import NOTHING, table


def training() -> str:
    """Each network beside a benign one of as many epochs."""
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
