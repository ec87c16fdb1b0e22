"""What one run of the benchmarks found, and a table of it: ratios within a group, shares of the
ceilings that were measured beside it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import awm_kernels
from bench.common import COMPILED, COPY, DEVICE, EAGER, KERNELS, ROOT
from bench.results import write_run

Group = dict[str, dict[str, Any]]

PEERS = ("foolbox", "proxtorch", "entmax", "fastprox")
CEILING = "ceiling, "
# Ratios say how many times the kernels' time the others take.
HEAD = ("what", "kernels", "eager", "torch.compile", "best other", "of the ceiling", "memory")


def about() -> dict[str, Any]:
    """Where, when and with what a run is made."""
    return {
        "device": _device(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {
            "awm-kernels": awm_kernels.__version__,
            "torch": torch.__version__,
            **{name: found for name in PEERS if (found := _version(name))},
        },
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def collect(benchmarks: Iterable[Any]) -> dict[str, Any]:
    """A run, from what pytest-benchmark measured.

    `seconds` is the fastest round: what else runs on a shared machine only ever adds.
    """
    return {
        **about(),
        "rows": [
            {
                "group": one.group,
                "seconds": one.stats.min,
                "median": one.stats.median,
                "rounds": one.stats.rounds,
                **one.extra_info,
            }
            for one in benchmarks
            if not one.has_error and one.stats.rounds
        ],
    }


def write(out: Path, found: Mapping[str, Any], text: str) -> None:
    """OUT.jsonl and OUT.md, and the text and their names on the screen."""
    write_run(Path(f"{out}.jsonl"), found)
    Path(f"{out}.md").write_text(text + "\n")
    print(f"{text}\n\nwritten: {out}.jsonl, {out}.md")


def as_markdown(found: Mapping[str, Any]) -> str:
    """One line a group."""
    groups = by_group(found)
    rates = rates_of(groups)
    ceilings = "; ".join(f"{name} {_rate_text(name, rate)}" for name, rate in rates.items())
    missing = [name for name in PEERS if name not in found["versions"]]
    lines = [
        f"{found['device']}, {found['threads']} threads, torch {found['versions']['torch']}, "
        f"{found['date']}. Ceilings: {ceilings}."
        + (f" Not installed, so left out: {', '.join(missing)}." if missing else ""),
        "",
        f"| {' | '.join(HEAD)} |",
        "|" + "---|" * len(HEAD),
    ]
    for group, rows in groups.items():
        if KERNELS in rows:
            lines.append(f"| {group} | {' | '.join(_cells(rows, rates))} |")
    return "\n".join(lines)


def by_group(found: Mapping[str, Any]) -> dict[str, Group]:
    """The rows of a run, by group and contestant."""
    groups: dict[str, Group] = {}
    for row in found["rows"]:
        groups.setdefault(row["group"], {})[row["contestant"]] = row
    return groups


def rates_of(groups: Mapping[str, Group]) -> dict[str, float]:
    """The ceilings of a run: operations or bytes a second."""
    return {
        group.removeprefix(CEILING).removesuffix(" product"): _rate(next(iter(rows.values())))
        for group, rows in groups.items()
        if group.startswith(CEILING)
    }


def floor_of(rows: Group, rates: Mapping[str, float]) -> float | None:
    """Seconds that a copy of as many bytes took, or that the arithmetic takes at the ceilings."""
    if COPY in rows:
        return float(rows[COPY]["seconds"])
    flops = rows[KERNELS].get("flops")
    if isinstance(flops, int | float):
        flops = {"float32": flops}
    if not flops or not set(flops) <= set(rates):
        return None
    return float(sum(count / rates[dtype] for dtype, count in flops.items()))


def _cells(rows: Group, rates: Mapping[str, float]) -> list[str]:
    ours = rows[KERNELS]
    others = [row for name, row in rows.items() if name not in (KERNELS, EAGER, COMPILED, COPY)]
    best = min(others, key=lambda row: row["seconds"], default=None)
    peaks = [rows.get(name, {}).get("peak_memory_mb") for name in (KERNELS, EAGER)]
    memory = [float(peak) for peak in peaks if peak]
    return [
        duration(ours["seconds"]),
        _faster(rows.get(EAGER), ours),
        _faster(rows.get(COMPILED), ours),
        f"{_faster(best, ours)} ({best['contestant']})" if best else "",
        _share(rows, rates),
        f"{memory[0] / memory[1]:.2f}" if len(memory) == 2 else "",
    ]


def _faster(other: dict[str, Any] | None, ours: dict[str, Any]) -> str:
    return f"{other['seconds'] / ours['seconds']:.2f}×" if other else "not measured"


def _share(rows: Group, rates: Mapping[str, float]) -> str:
    floor = floor_of(rows, rates)
    if floor is None:
        return ""
    share = f"{floor / rows[KERNELS]['seconds']:.0%}"
    return (
        f"{share} of a copy" if COPY in rows else f"{share} of the arithmetic ({duration(floor)})"
    )


def _rate(row: dict[str, Any]) -> float:
    return (row.get("flops") or row["nbytes"]) / row["seconds"]


def _rate_text(name: str, rate: float) -> str:
    return f"{rate / 1e9:.1f} {'GB/s' if name == 'copy' else 'GFLOP/s'}"


def duration(seconds: float) -> str:
    """With three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _device() -> str:
    if DEVICE == "cuda":
        return torch.cuda.get_device_name()
    capability = torch.backends.cpu.get_cpu_capability()
    return f"CPU, {os.cpu_count()} cores, {platform.machine()} {capability}"


def _commit() -> str | None:
    """Of this checkout, with a + where files differ from it."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
