"""The GPU benchmarks run (on tiny sizes), report what they should, and can be shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.gpu import results, setting
from bench.gpu.__main__ import PARTS
from bench.gpu.layers import NETWORKS, Layer, distinct


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="bench/gpu_check.sh runs them in full")
@pytest.mark.parametrize("part", PARTS)
def test_every_part_reports_rows(part: str, tmp_path: Path) -> None:
    path = tmp_path / f"{part}.json"
    setting.write(PARTS[part](), path)
    rows = json.loads(path.read_text())
    assert len({row["name"] for row in rows}) == len(rows) > 1
    for row in rows:
        assert set(row) == set(setting.Row._fields)
        assert row["value"] >= 0 and row["met"] is None
        assert (row["note"] == setting.NO_GPU) == (row["goal"] is not None)


def test_goals_are_judged_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setting, "GPU", True)
    assert setting.at_least("a", 0.9, 0.85, "").met and not setting.at_least("a", 0.8, 0.85, "").met
    assert setting.at_most("a", 1.9, 2, "").met and not setting.at_most("a", 2.1, 2, "").met


def test_a_run_cut_short_keeps_its_rows(tmp_path: Path) -> None:
    def rows() -> setting.Rows:
        yield setting.Row("one", 1, "s")
        raise RuntimeError("out of time")

    with pytest.raises(RuntimeError):
        setting.write(rows(), tmp_path / "rows.json")
    assert [row["name"] for row in json.loads((tmp_path / "rows.json").read_text())] == ["one"]


@pytest.mark.parametrize(
    ("network", "parameters"),
    [("ResNet-18", 11_159_232), ("MobileNet V2", 2_189_760), ("ResNet-50", 23_454_912)],
)
def test_layers_are_those_of_the_network(network: str, parameters: int) -> None:
    assert sum(layer.weights for layer in NETWORKS[network]) == parameters


def test_sides_of_the_last_layers() -> None:
    sides = {name: layers[-1].side for name, layers in NETWORKS.items()}
    assert sides == {"ResNet-18": 4, "MobileNet V2": 4, "ResNet-50": 7}
    assert len(distinct([Layer(1, 2, 3, 1), Layer(1, 2, 3, 1)])) == 1


def test_collect_and_show(tmp_path: Path) -> None:
    (tmp_path / "parts.tsv").write_text("flat\t0\t3\ntrigger\t124\t30\ntests\t1\t9\n")
    layer = setting.Row("conv, Net, tf32, 3-4 3x3 at 5, forward", 2.0, "us", 3.0)._asdict()
    (tmp_path / "convolutions.json").write_text(json.dumps([layer]))
    (tmp_path / "tests.xml").write_text(
        '<testsuites><testsuite tests="9" failures="2" errors="0" skipped="3"/></testsuites>'
    )
    found = results.collect(tmp_path)
    assert set(found) == {"device", "note", "versions", "date", "rows"}
    by_name = {row["name"]: row for row in found["rows"]}
    assert by_name["part: flat"]["met"] is True
    assert by_name["part: trigger"]["note"] == "stopped at its time limit"
    assert by_name["part: tests"]["met"] is False
    assert by_name["GPU tests passed"]["value"] == 4
    shown = results.as_markdown(found)
    assert "| part: trigger | 0 |" in shown
    assert "| Net | tf32 | 3-4 3x3 at 5 | 2.0 / 3.0 |  |  |" in shown
