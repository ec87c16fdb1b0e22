"""`python -m bench`: what it writes, and that it refuses to time what is wrong."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from awm_defense import purify
from bench import bench_default, breakdown, calls, contestants, kinds, scaling
from bench.common import ROOT, gate
from bench.networks import find_networks
from bench.plain_loop import HALF, SINGLE, check_equal
from bench.results import read_rows
from bench.run import as_markdown, duration

pytest.importorskip("pytest_benchmark")

FEW = "masked_linear and not compiled"


def test_networks_without_a_trigger_are_named_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWM_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="with a trigger in"):
        find_networks(tmp_path)
    both: dict[str, dict[str, Any]] = {"benign": {}, "badnets": {"trigger": {}}}
    for name, facts in both.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps(facts))
    assert find_networks(tmp_path) == [tmp_path / "badnets"]
    assert str(tmp_path / "benign") in capsys.readouterr().err
    monkeypatch.delenv("AWM_DATA_DIR")
    with pytest.raises(ValueError, match="AWM_DATA_DIR, which is not set"):
        find_networks(tmp_path)


def row(group: str, contestant: str, seconds: float, **about: object) -> dict[str, object]:
    return {"group": group, "contestant": contestant, "seconds": seconds, **about}


@pytest.mark.slow
def test_a_run_is_written_as_rows_and_as_a_table(tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    # pytest-benchmark times nothing where it sees that tests run in parallel.
    outside = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    environment = {**outside, "PYTHONPATH": f"{ROOT}:{ROOT / 'python'}"}
    command = [sys.executable, "-m", "bench", "--out", str(out), "-k", FEW]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    about, *rows = read_rows(out.with_suffix(".jsonl"))
    found = {**about, "rows": rows}
    contestants = {(row["group"], row["contestant"]) for row in found["rows"]}
    assert ("ceiling, copy", "copy") in contestants
    assert ("masked_linear forward+backward, 2048 to 1024", "kernels") in contestants
    assert all(0 < row["seconds"] <= row["median"] for row in found["rows"])
    assert "commit" in found and found["versions"]["awm-kernels"]
    table = out.with_suffix(".md").read_text()
    assert table == as_markdown(found) + "\n" and "% of the arithmetic" in table
    nothing = subprocess.run(
        [*command[:-1], "nothing"], cwd=ROOT, env=environment, capture_output=True
    )
    assert nothing.returncode != 0
    assert b"nothing but the ceilings was measured: -k 'nothing'" in nothing.stderr


def test_what_is_not_installed_is_named() -> None:
    found = {"device": "d", "threads": 2, "date": "today", "versions": {"torch": "1"}, "rows": []}
    assert "left out: foolbox, proxtorch, entmax, fastprox." in as_markdown(found)
    found["versions"] = dict.fromkeys(["torch", "foolbox", "proxtorch", "entmax", "fastprox"], "1")
    assert "left out" not in as_markdown(found)


def test_the_time_of_a_call_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [(title, make, sizes[:1], nothing) for title, make, sizes, nothing in calls.OPS[:-3]]
    monkeypatch.setattr(calls, "OPS", few)
    monkeypatch.setattr(calls, "MIN_SECONDS", 0.001)
    rows = calls.breakdown()
    assert [row["op"] for row in rows] == [title for title, *_ in few]
    keys = ("seconds", "fixed", "copy", "one_thread")
    assert all(row[key] > 0 for row in rows for key in keys)
    assert calls.as_markdown(rows).count("\n") == len(rows) + 1


def test_growth_is_that_of_the_fastest_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([3.0, 2.0, 1.0, 4.0, 2.0, 2.0])
    row = {"arch": "net", "parameters": 1e6, "picoseconds_per_multiply_add": 1.0}
    row |= {"peak_memory_mb": 1.0, "shares": {}}

    def run(command: list[str], **_: object) -> SimpleNamespace:
        return SimpleNamespace(stdout=json.dumps(row | {"seconds": next(times)}))

    points = [("a", 8, "net", 8, 32), ("a", 16, "net", 16, 32), ("b", 32, "net", 8, 32)]
    monkeypatch.setattr(scaling, "POINTS", points)
    monkeypatch.setattr(scaling, "MEASURED", [("net", 8, 32), ("net", 16, 32)])
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(scaling, "about", lambda: {"device": "d", "versions": {"torch": "1"}})
    monkeypatch.setattr(sys, "argv", ["scaling", "--out", str(tmp_path / "new" / "growth")])
    scaling.main()
    _, *rows = read_rows(tmp_path / "new" / "growth.jsonl")
    assert [one["seconds"] for one in rows] == [1.0, 2.0, 1.0]
    assert [one["rounds"] for one in rows][1:] == [[2.0, 4.0, 2.0], [3.0, 1.0, 2.0]]
    assert [one["axis"] for one in rows] == ["a", "a", "b"]
    assert (tmp_path / "new" / "growth.png").stat().st_size > 0


def test_ratios_stay_within_a_group_and_shares_are_of_the_ceilings() -> None:
    rows = [
        row("ceiling, float32 product", "matmul", 1.0, flops=100e9),
        row("ceiling, bfloat16 product", "matmul", 1.0, flops=200e9),
        row("ceiling, copy", "copy", 0.5, nbytes=10e9),
        row("step", "kernels", 2.0),
        row("step", "eager", 6.0),
        row("step", "compiled", 1.0),
        row("step", "slow library", 9.0),
        row("step", "fast library", 3.0),
        row("step", "copy", 1.5),
        row("whole", "kernels", 4.0, peak_memory_mb=30, flops={"float32": 100e9, "bfloat16": 2e11}),
        row("whole", "eager", 8.0, peak_memory_mb=60),
        row("lonely", "eager", 8.0),
    ]
    about = {"device": "a device", "threads": 2, "versions": {"torch": "2"}, "date": "today"}
    head, _, _, _, step, whole = as_markdown({**about, "rows": rows}).splitlines()
    assert "copy 20.0 GB/s" in head and "bfloat16 200.0 GFLOP/s" in head
    assert step == "| step | 2 s | 3.00× | 0.50× | 1.50× (fast library) | 75% of a copy |  |"
    share = "50% of the arithmetic (2 s)"
    assert whole == f"| whole | 4 s | 2.00× | not measured |  | {share} | 0.50 |"


def test_durations() -> None:
    found = [duration(seconds) for seconds in (12.345, 0.012345, 1.2345e-5, 5e-9)]
    assert found == ["12.3 s", "12.3 ms", "12.3 µs", "5 ns"]


def test_what_is_wrong_is_not_timed() -> None:
    gate(torch.ones(3), torch.ones(3) + 1e-6)
    with pytest.raises(AssertionError, match="not timed"):
        gate(torch.ones(3), torch.ones(3) + 1e-3)
    with pytest.raises(AssertionError, match="not timed"):
        gate(torch.full((3,), torch.nan), torch.ones(3))


@pytest.mark.slow
def test_a_wrong_purification_is_not_timed() -> None:
    problem = contestants.problem("small_vgg", "1")
    right = functools.partial(purify, precision="fp32")
    check_equal(*problem, right, SINGLE)

    def wrong(*given: Any, **options: Any) -> tuple[dict[str, torch.Tensor], None]:
        masks = right(*given, **options).masks
        return {name: torch.full_like(mask, 0.123) for name, mask in masks.items()}, None

    with pytest.raises(AssertionError, match="not timed"):
        check_equal(*problem, wrong, HALF)
    with pytest.raises(AssertionError, match="not timed"):
        check_equal(*problem, lambda *_, **__: ({}, None), HALF)


def test_default_is_given_epochs_until_it_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {1: (80.0, 9.0), 2: (79.0, 2.0), 3: (80.0, 3.0), 4: (85.0, 1.0)}

    class Trial:
        def measure(self, epochs: int) -> dict[str, float]:
            return dict(zip(("acc", "asr"), found[epochs], strict=True))

    folder = Path("a network")
    monkeypatch.setattr(bench_default, "trial", lambda _: Trial())
    monkeypatch.setattr(
        bench_default, "default", lambda _, epochs, __: SimpleNamespace(model=epochs)
    )
    monkeypatch.setitem(bench_default.ENDS, folder, {"acc": 80.0, "asr": 3.0})
    assert bench_default.epochs_until_as_good(folder, {}) == 3
    found.update(dict.fromkeys(range(3, 11), (90.0, 3.1)))
    with pytest.raises(pytest.skip.Exception, match="never as good"):
        bench_default.epochs_until_as_good(folder, {})


def test_ops_are_sorted_into_kinds() -> None:
    found = {
        "aten::mkldnn_convolution": "convolutions, forward",
        "aten::convolution_backward": "convolutions, backward",
        "awm_kernels_compiled::pooled_elu_backward_out": "activations and pooling",
        "awm_kernels_compiled::mask_step_": "masks (mask_step_, masked_weight)",
        "awm_kernels::perturb": "trigger (perturb, trigger_step_, L1 ball)",
        "aten::mm": "linear layers",
        "aten::fill_": "copies, sums, fills",
        "aten::randperm": kinds.OTHER,
    }
    assert {name: kinds.kind_of(name) for name in found} == found
    assert set(found.values()) == {*kinds.KINDS, kinds.OTHER}


def test_a_breakdown_as_a_table() -> None:
    shares = dict.fromkeys([*kinds.KINDS, kinds.OTHER], 0.0)
    shares |= {kinds.OTHER: 0.25, "linear layers": 0.75}
    rows = [{"title": "net", "seconds": 2.0, "arithmetic_seconds": 0.5, "shares": shares}]
    rows.append(rows[0] | {"title": "other", "first_seconds": 3.0})
    lines = breakdown.as_markdown(rows).splitlines()
    assert lines[0] == "|  | net | other |"
    assert f"| {kinds.OTHER} | 25% | 25% |" in lines
    assert lines[-3:] == [
        "| in all | 2 s | 2 s |",
        "| its arithmetic alone | 500 ms | 500 ms |",
        "| the first time, measurement of dtypes included |  | 3 s |",
    ]
