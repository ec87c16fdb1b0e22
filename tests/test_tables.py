"""The tables in the documents are made from the result files, and a stale one is noticed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from bench import pictures
from bench.common import ROOT
from bench.results import RESULTS, read_rows, read_study, write_rows, write_study
from bench.tables import __main__ as command
from bench.tables import erasing, study
from bench.tables.markers import fill
from bench.tables.registry import TABLES

TABLE = "<!-- table: small -->\n\n| a |\n|---|\n| 1 |\n\n<!-- end -->"


def test_no_table_in_the_documents_is_stale() -> None:
    assert command.stale(command.documents()) == {}


def test_the_documents_have_tables() -> None:
    text = "".join(path.read_text() for path in command.documents())
    assert text.count("<!-- table: ") >= 10


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_a_cell_for_each_column(name: str) -> None:
    lines = [line for line in TABLES[name]().splitlines() if line.startswith("|")]
    assert len(lines) > 2
    assert len({line.count("|") for line in lines}) == 1


def test_what_is_between_markers_is_made_anew() -> None:
    text = "before\n<!-- table: small -->\nold\n<!-- end -->\nafter"
    filled = fill(text, {"small": lambda: "| a |\n|---|\n| 1 |"})
    assert filled == f"before\n{TABLE}\nafter"
    assert fill(filled, {"small": lambda: "| a |\n|---|\n| 1 |"}) == filled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: other -->\n<!-- end -->", "expected one of small, got 'other'"),
        ("<!-- table: small -->\n", "expected an '<!-- end -->' for each"),
        ("<!-- table: small -->\n<!-- table: small -->\n<!-- end -->", "expected an"),
        ("<!-- end -->", "expected an"),
    ],
)
def test_broken_markers_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fill(text, {"small": lambda: ""})


def test_a_changed_number_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "page.md"
    text = fill("<!-- table: erasing -->\n<!-- end -->\n", TABLES)
    document.write_text(text.replace("83.3 / 0.4", "83.4 / 0.4", 1))
    monkeypatch.setattr(command, "documents", lambda: [document])
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["tables", "--check"])
    with pytest.raises(SystemExit) as stale:
        command.main()
    assert stale.value.code == 1 and "page.md: stale" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["tables"])
    with pytest.raises(SystemExit) as filled:
        command.main()
    assert filled.value.code == 0 and document.read_text() == text


def test_a_changed_result_changes_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    before = erasing.expect()
    rows = read_study("erasing")
    for cell, row in rows.items():
        if cell.method == "default":
            row["metrics"]["acc"] -= 1
    monkeypatch.setattr(study, "study", lambda _: rows)
    assert erasing.expect() != before


@pytest.mark.parametrize("name", ["erasing", "ablation", "paper", "verdicts"])
def test_studies_are_sorted_and_have_no_cell_twice(name: str, tmp_path: Path) -> None:
    path = RESULTS / f"{name}.jsonl"
    rows = list(read_rows(path))
    write_study(tmp_path / "sorted.jsonl", rows)
    assert (tmp_path / "sorted.jsonl").read_text() == path.read_text()
    assert len(read_study(name)) == len(rows)


def test_results_are_small() -> None:
    assert sum(path.stat().st_size for path in RESULTS.iterdir()) < 400_000


@pytest.mark.slow
def test_pictures_are_drawn_from_the_results_and_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "FOLDER", tmp_path)
    pictures.main()
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in (ROOT / "docs" / "figures").iterdir()}
    assert all(0 < path.stat().st_size < 60_000 for path in tmp_path.iterdir())


def test_every_measured_network_is_described() -> None:
    known = {(network.arch, network.attack) for network in study.networks()}
    for name in ("erasing", "verdicts", "ablation"):
        assert {(cell.arch, cell.attack) for cell in read_study(name)} <= known


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"a": 1.5, "b": None}, {"c": "θ"}]
    write_rows(tmp_path / "new" / "rows.jsonl", rows)
    assert list(read_rows(tmp_path / "new" / "rows.jsonl")) == rows
