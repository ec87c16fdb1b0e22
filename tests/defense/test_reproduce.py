"""`awm reproduce` on the command line."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from awm_defense.commands.main import main
from awm_defense.commands.reproduce import select
from awm_defense.reproduce import figures, workers
from awm_defense.reproduce.cells import Cell, Place
from awm_defense.reproduce.grid import cell_path, run_grid
from awm_defense.reproduce.layouts import TABLES
from awm_defense.reproduce.methods import METHODS, Method
from awm_defense.reproduce.studies import STUDIES, Trial
from awm_defense.reproduce.tables import table_cells
from tests.defense.cells import state, write_network

SHORT = {"epochs": "1", "inner_epochs": "1"}


def test_the_filter() -> None:
    cells = table_cells(TABLES["table1"]("resnet18"), 2, None)
    chosen = select(cells, "small_vgg, badnets|trojan_*, n200|n50, a*, seed1")
    origins = [cell for cell in chosen if cell.method == "none"]
    assert {(cell.arch, cell.attack) for cell in origins} == {
        ("small_vgg", attack) for attack in ("badnets", "trojan_sq", "trojan_wm")
    }
    others = [cell for cell in chosen if cell.method != "none"]
    assert len(others) == 3 * 2 * 2
    assert {(cell.n, cell.method, cell.seed) for cell in others} == {
        (n, method, 1) for n in (200, 50) for method in ("anp", "awm")
    }
    with pytest.raises(ValueError, match=r"--cells: .*got 'badnet'.* badnets, .* anp, ibau, awm;"):
        select(cells, "badnet")


def test_command_line(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(METHODS, "awm", Method("AWM", "official", SHORT))
    argv = ["reproduce", "table2", "--arch", "small_vgg", "--models", str(place.models)]
    argv += ["--out", str(tmp_path), "--limit", "20", "--cells", "awm|clean"]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert out == (tmp_path / "table2.md").read_text()
    assert "2 of 40 cells (seeds: 1) measured on the first 20 test images" in out
    assert "no network in" in err
    assert str(place.models / "small_vgg" / "l0_inv") in err
    assert len(state(tmp_path)) == 2
    table = json.loads((tmp_path / "table2.json").read_text())
    assert table["rows"][3]["entries"][0]["acc"]["ours"] is not None
    assert table["rows"][3]["entries"][0]["acc"]["paper"] is None

    def failing(trial: Trial) -> dict[str, Any]:
        raise ValueError("broken")

    monkeypatch.setitem(STUDIES, "purified", failing)
    assert main([*argv, "--seeds", "2"]) == 1
    err = capsys.readouterr().err
    assert "failed: small_vgg-badnets-one-shot-awm-seed1-first20: ValueError: broken" in err


def test_command_line_of_figures(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(METHODS, "awm", Method("AWM", "official", SHORT))
    monkeypatch.setattr(figures, "SIZE", 20)
    argv = ["reproduce", "fig2", "--arch", "small_vgg", "--attack", "badnets", "--limit", "20"]
    argv += ["--models", str(place.models), "--out", str(tmp_path)]
    assert main([*argv, "--cells", "*tau=10.0"]) == 0
    assert str(tmp_path / "fig2.png") in capsys.readouterr().out
    figure = json.loads((tmp_path / "fig2.json").read_text())
    assert "BadNets, VGG" in figure["title"]
    assert [len(panel["lines"]) for panel in figure["panels"]] == [0, 0, 3]
    assert figure["panels"][2]["lines"][0]["x"] == [10]
    assert (tmp_path / "fig2.png").stat().st_size > 0


def test_where_nothing_is_measured_nothing_is_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = '{"title": "", "measured": ""}'
    (tmp_path / "fig3.json").write_text(earlier)
    (tmp_path / "fig3.png").write_text("an earlier figure")
    assert main(["reproduce", "fig3", "--models", str(tmp_path), "--out", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert str(tmp_path / "resnet18" / "badnets") in err
    assert "nothing is measured" in err and "--arch" in err
    assert (tmp_path / "fig3.png").read_text() == "an earlier figure"
    assert (tmp_path / "fig3.json").read_text() == earlier


def test_a_table_that_comes_meanwhile_is_kept(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def slow(trial: Trial) -> dict[str, Any]:
        (tmp_path / "table2.md").write_text("mine")
        return {"metrics": {"acc": 50.0, "asr": 0.0, "asr_all": 0.0}, "recipe": None}

    for name in STUDIES:
        monkeypatch.setitem(STUDIES, name, slow)
    argv = ["reproduce", "table2", "--arch", "small_vgg", "--models", str(place.models)]
    assert main([*argv, "--out", str(tmp_path), "--limit", "20", "--cells", "none"]) == 0
    told = capsys.readouterr()
    assert (tmp_path / "table2.md").read_text() == "mine"
    assert (tmp_path / "awm-1" / "table2.md").read_text() == told.out
    assert f"the result is in {tmp_path / 'awm-1'}" in told.err


def test_results_that_are_only_shown_are_checked_too(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    origin = Cell("small_vgg", "badnets", 0, "none", limit=20)
    run_grid([origin], place, tmp_path)
    argv = ["reproduce", "table2", "--arch", "small_vgg", "--models", str(place.models)]
    argv += ["--out", str(tmp_path), "--limit", "20", "--cells", "l0_inv"]
    path = cell_path(tmp_path, origin)
    measured = json.loads(path.read_text())
    older = {name: value for name, value in measured.items() if name != "attack_sha256"}
    path.write_text(json.dumps(older))
    assert main(argv) == 0
    assert f"note: 1 results of an earlier version, {origin.name}" in capsys.readouterr().err
    path.write_text(json.dumps(measured | {"attack_sha256": "0"}))
    assert main(argv) == 2
    assert f"{path} was measured with another trigger" in capsys.readouterr().err


def test_one_error_of_many_cells_is_told_once(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_network(tmp_path / "small_vgg" / "badnets")
    manifest = tmp_path / "small_vgg" / "badnets" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("digits", "cifar10"))
    argv = ["reproduce", "table5", "--arch", "small_vgg", "--models", str(tmp_path)]
    argv += ["--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(argv) == 1
    failures = [line for line in capsys.readouterr().err.splitlines() if "failed: " in line]
    assert len(failures) == 1
    assert "small_vgg-badnets-n200-no_clip-seed0 and 11 more: " in failures[0]
    assert "cifar-10-batches-py" in failures[0]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["table6"], "table6"),
        (["table1", "--arch", "small_vgg"], "--arch: expected with table2"),
        (["fig3", "--attack", "badnets"], "--attack: expected with fig1, fig2"),
        (["table2", "--cells", "nothing"], "--cells"),
        (["table2", "--cells", "a," * 1000], "--cells: expected at most 1000 characters, got 2000"),
        (["table2", "--seeds", "1000000000"], "--seeds: expected a whole number from 1 to 1000"),
        (["table2", "--device", "abacus"], "abacus"),
        *(
            (["fig1", "--attack", name], "--attack: expected the name of a folder")
            for name in (
                "x/y",
                "x/../badnets",
                "..",
                "",
                "a\\b",
                "c:x",
                "a\nb",
                "a" * 101,
                "\udce9",
            )
        ),
    ],
)
def test_wrong_options(
    options: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["reproduce", *options, "--models", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(argv) == 2
    assert part in capsys.readouterr().err.splitlines()[-1]


def test_no_more_processes_are_started_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers: int, **_: object) -> None:
            started.append(workers)
            super().__init__(1)

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert list(workers.in_processes([], Place(Path(), None, "cpu"), 10**9)) == []
    assert started == [2]


def test_results_of_a_stranger_are_shown_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cells").mkdir()
    found = {"model_sha256": "0", "recipe": {"name": "x"}, "device": "CPU\x1b[2J\n# $\\x$"}
    found["metrics"] = {"acc": 90.0}  # as of a network without a backdoor
    table = table_cells(TABLES["table2"]("resnet18"), 1, None)[0]
    figure = figures.figure_cells(figures.FIGURES["fig3"]("resnet18", ""), 1, None)[0]
    for cell in (table, figure):
        cell_path(tmp_path, cell).write_text(json.dumps({**found, **asdict(cell), "recipe": None}))
    assert table.method == "none"
    # With a recipe that it can't have.
    cell_path(tmp_path, table).write_text(json.dumps({**found, **asdict(table)}))
    for what, values in (("table2", " 90.00 "), ("fig3", "fig3.png")):
        assert main(["reproduce", what, "--models", str(tmp_path), "--out", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        assert r"1 on CPU\x1b[2J\n# $" in out and values in out
        assert out.replace("\n", "").isprintable()
