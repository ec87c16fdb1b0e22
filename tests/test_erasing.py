"""bench/erasing.py: what each recipe makes of networks."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from awm_defense.attacks import make_attack
from awm_defense.attacks.stored import write_attack
from awm_defense.files.checkpoint import save_model
from awm_defense.files.manifest import write_manifest
from awm_defense.models import build_model
from awm_defense.reproduce.cells import Cell
from awm_defense.reproduce.summary import with_seeds
from awm_defense.training.backdoor import MODEL
from bench import erasing
from bench.collect import collect
from bench.results import read_rows
from bench.tables.markdown import spread


@pytest.mark.slow
def test_a_line_for_each_network_and_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = {"arch": "small_vgg", "dataset": "digits", "num_classes": 10}
    for name in ("badnets", "benign"):
        folder = tmp_path / "nets" / "small_vgg" / name
        folder.mkdir(parents=True)
        torch.manual_seed(0)
        save_model(folder / MODEL, build_model("small_vgg", 10))
        attack = (
            write_attack(folder, make_attack("badnets", 8, num_classes=10))
            if name == "badnets"
            else {}
        )
        write_manifest(folder, {"attack": "none", **facts, **attack})
    out = tmp_path / "out"
    method = "awm+epochs=1+inner_epochs=1"
    options = ["--seeds", "2", "--recipes", "default", "--methods", method]
    monkeypatch.setattr(
        sys, "argv", ["erasing", str(tmp_path / "nets"), "--out", str(out), *options]
    )
    monkeypatch.setitem(erasing.RECIPES, "default", "default+epochs=1+inner_epochs=1+examine=false")
    erasing.main()
    lines = (out / "erasing.md").read_text().splitlines()
    assert "10 of 10 cells (seeds: 2) measured on all test images" in lines[-1]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:8]]
    assert [row[:2] for row in rows] == [
        [f"small_vgg, digits, {name}", recipe]
        for name in ("badnets", "benign")
        for recipe in ("before", "default", method)
    ]
    assert [row[-1] for row in rows] == ["1", "2", "2"] * 2
    assert all(" ± " in cell for cell in rows[1][2:7])
    assert rows[4][3:6] == ["-"] * 3  # no backdoor, no attack success
    assert len(list((out / "cells").glob("*.json"))) == 10
    rows_kept = list(read_rows(out / "erasing.jsonl"))
    assert len(rows_kept) == 10 and rows_kept[0]["metrics"]["acc"] > 0
    table = tmp_path / "table.jsonl"
    assert collect(out / "cells", table) == collect(out / "cells", table) == 10
    assert list(read_rows(table)) == rows_kept
    lost = (
        out
        / "cells"
        / "small_vgg-badnets-one-shot-default+epochs=1+inner_epochs=1+examine=false-seed1.json"
    )
    lost.unlink()
    for seed in (0, 1):
        lost.with_name(f"small_vgg-benign-one-shot-{method}-seed{seed}.json").unlink()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--tables-only"])
    erasing.main()
    assert not lost.exists()
    kept = (out / "erasing.md").read_text().splitlines()
    assert "7 of 10 cells" in kept[-1]
    assert [line for line in lines if line not in kept and method in line] == [lines[7]]
    assert not any("benign" in line and method in line for line in kept)
    assert not [line for line in lines[8:] if "digits" in line]  # nothing was examined
    assert "small_vgg, digits, benign" in capsys.readouterr().out


def test_a_folder_without_networks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["erasing", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        erasing.main()
    assert "NETS: expected folders ARCH/NAME with a manifest.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_verdicts_are_compared_with_the_truth(tmp_path: Path) -> None:
    rows: dict[str, dict[str, Cell]] = {}
    seeds: dict[Cell, list[Cell]] = {}
    results: dict[Cell, dict[str, Any]] = {}
    truths: dict[str, dict[str, Any]] = {
        "badnets": {"target": 8},
        "benign": {},
        "wanet": {"mapping": "all-to-all"},
    }
    for name, truth in truths.items():
        (tmp_path / "small_vgg" / name).mkdir(parents=True)
        write_manifest(tmp_path / "small_vgg" / name, truth)
        row = {"before": Cell("small_vgg", name, 0, "none")}
        row |= {"default": Cell("small_vgg", name, None, "default")}
        rows[name] = row
        seeds |= {cell: with_seeds(cell, 3) for cell in row.values()}
        for seed, (backdoored, target) in enumerate([(True, 8), (True, 1), (False, 8)]):
            verdict: dict[str, Any] = {
                "backdoored": backdoored,
                "target": target,
                "score": 1.5 + seed,
            }
            verdict |= {"norm": 5.0, "unit": "L1", "surest": None if seed == 1 else target}
            results[replace(row["default"], seed=seed)] = {"verdict": verdict}
    found = list(erasing.measured(rows, seeds, results))
    lines = erasing.verdict_table(tmp_path, found).splitlines()
    assert lines[2:] == [
        "| badnets | default | 8 | 2 of 3 | 1 of 3 | 1.5*, 2.5, 3.5 | 5 L1 |",
        "| benign | default | none | 2 of 3 | - | 1.5*, 2.5, 3.5 | 5 L1 |",
        "| wanet | default | all | 2 of 3 | - | 1.5*, 2.5, 3.5 | 5 L1 |",
    ]


def test_only_some_networks(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "resnet18" / name).mkdir(parents=True)
        write_manifest(tmp_path / "resnet18" / name, {"dataset": "cifar10"})
    rows = dict(erasing.plan(tmp_path, ["b"], 50, {"official": "awm"}))
    assert list(rows) == ["resnet18, cifar10, b"]
    before, official = rows["resnet18, cifar10, b"].values()
    assert (before.method, before.n, official.method, official.n) == ("none", 0, "awm", 50)


@pytest.mark.parametrize(
    ("values", "text"), [([], "-"), ([1.26], "1.3"), ([1.0, 2.0, 3.0], "2.0 ± 1.0")]
)
def test_spreads(values: list[float], text: str) -> None:
    assert spread(values) == text
