"""The grid: what a cell measures, and that a killed run goes on where it was."""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from awm_defense.attacks import make_attack
from awm_defense.attacks.stored import write_attack
from awm_defense.awm.recipe import RECIPES
from awm_defense.baselines import Anp, Task
from awm_defense.files.arrays import write_image
from awm_defense.files.manifest import write_manifest
from awm_defense.reproduce import studies, workers
from awm_defense.reproduce.cells import Cell, Place, changed_settings
from awm_defense.reproduce.grid import cell_path, read_results, run_grid
from awm_defense.reproduce.methods import get_method
from awm_defense.reproduce.studies import THRESHOLDS
from tests.defense.cells import CELL, QUICK, state, write_network


@pytest.mark.slow
def test_a_cell_says_what_was_measured(place: Place, tmp_path: Path) -> None:
    origin = Cell("small_vgg", "badnets", 0, "none", limit=20)
    report = run_grid([CELL, origin, CELL], place, tmp_path)
    assert (report.run, report.failed, report.missing) == ([CELL, origin], {}, [])
    found = read_results(tmp_path, [CELL, origin])
    assert set(found[origin]["metrics"]) == {"acc", "asr", "asr_all", "ra"}
    assert found[origin]["recipe"] is None
    assert found[CELL]["recipe"]["name"] == "official"
    assert (found[CELL]["recipe"]["epochs"], found[CELL]["recipe"]["tau"]) == (1, 100)
    assert found[CELL]["seconds"] > 0
    for key in ("peak_memory_mb", "precision", "notes", "device", "versions", "date"):
        assert key in found[CELL]
    assert {key: found[CELL][key] for key in ("n", "seed", "limit")} == {
        "n": None,
        "seed": 0,
        "limit": 20,
    }


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_precision_is_that_asked_for(
    place: Place, tmp_path: Path, precision: str, dtype: str
) -> None:
    cells = [CELL, replace(CELL, method="finetune+epochs=1")]
    report = run_grid(cells, replace(place, precision=precision), tmp_path)
    assert report.failed == {}
    found = read_results(tmp_path, cells).values()
    assert [one["precision"]["dtype"] for one in found] == [dtype, dtype]


def test_a_network_without_a_backdoor_has_an_accuracy_only(tmp_path: Path) -> None:
    folder = tmp_path / "small_vgg" / "benign"
    write_network(folder)
    facts = {"arch": "small_vgg", "dataset": "digits", "num_classes": 10, "attack": "none"}
    write_manifest(folder, facts)
    cells = [replace(CELL, attack="benign"), Cell("small_vgg", "benign", 0, "none", limit=20)]
    report = run_grid(cells, Place(tmp_path, None, "cpu"), tmp_path)
    assert report.failed == {}
    assert all(set(found["metrics"]) == {"acc"} for found in read_results(tmp_path, cells).values())


def test_infinite_settings_are_kept_as_json_can(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = replace(CELL, method=f"{QUICK}+tau=inf")
    run_grid([cell], place, tmp_path)
    text = cell_path(tmp_path, cell).read_text()
    assert json.loads(text, parse_constant=pytest.fail)["recipe"]["tau"] == "inf"


def test_the_same_command_does_nothing_again(place: Place, tmp_path: Path) -> None:
    run_grid([CELL], place, tmp_path)
    before = state(tmp_path)
    assert run_grid([CELL], place, tmp_path).run == []
    assert state(tmp_path) == before


def test_another_limit_is_another_cell(place: Place, tmp_path: Path) -> None:
    other = replace(CELL, limit=30)
    assert run_grid([CELL], place, tmp_path).run == [CELL]
    before = state(tmp_path)
    assert run_grid([CELL, other], place, tmp_path).run == [other]
    assert before.items() < state(tmp_path).items()


GRID = """
import sys
from pathlib import Path
from awm_defense.reproduce import workers
from awm_defense.reproduce.cells import Cell, Place
from awm_defense.reproduce.grid import run_grid

run_cell = workers.run_cell

def logged(cell, place):
    print(cell.name, flush=True)
    return run_cell(cell, place)

if __name__ == "__main__":
    workers.run_cell = logged
    models, out, method, processes = sys.argv[1:]
    cells = [Cell("small_vgg", "badnets", None, method, seed, 20) for seed in range(8)]
    run_grid(cells, Place(Path(models), None, "cpu"), Path(out), workers=int(processes))
"""


def start_grid(
    folder: Path, place: Place, out: Path, processes: int, method: str = QUICK
) -> subprocess.Popen[str]:
    script = folder / "grid.py"
    script.write_text(GRID)
    argv = [sys.executable, str(script), str(place.models), str(out), method, str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment)


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("waited for a minute")


@pytest.mark.slow
def test_a_kill_loses_only_the_cell_in_work(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cells = [replace(CELL, seed=seed) for seed in range(8)]
    least, moment = random.randrange(3), 0.4 * random.random()
    process = start_grid(tmp_path, place, out, 1)
    # The folder is made just before the first cell begins.
    wait_for(lambda: (out / "cells").exists() or process.poll() is not None)
    wait_for(lambda: len(state(out)) >= least or process.poll() is not None)
    time.sleep(moment)
    process.kill()
    started = process.communicate()[0].split()
    finished = state(out)
    assert least <= len(finished) < len(cells), (least, moment)
    lost = {f"{name}.json" for name in started} - set(finished)
    assert len(lost) <= 1, (least, moment)

    report = run_grid(cells, place, out)
    assert {f"{cell.name}.json" for cell in report.run} == {
        f"{cell.name}.json" for cell in cells
    } - set(finished)
    assert finished.items() <= state(out).items()
    assert len(state(out)) == len(cells)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # it may end while it is read
        return False
    return state != "Z"  # dead, though nobody has asked how it ended


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc to see processes in")
def test_killed_run_leaves_no_processes(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start_grid(tmp_path, place, out, 2, "awm+epochs=100000")
    wait_for(lambda: len(children(process.pid)) >= 3)
    started = children(process.pid)
    process.kill()
    wait_for(lambda: not any(map(runs, started)))
    process.communicate()
    assert state(out) == {}


@pytest.mark.slow
def test_processes_find_what_one_finds(place: Place, tmp_path: Path) -> None:
    origin = Cell("small_vgg", "badnets", 0, "none", limit=50)
    cells = [origin, replace(CELL, method="awm+alpha=2")]
    alone, many = (run_grid(cells, place, tmp_path / str(n), workers=n) for n in (1, 2))
    assert alone.run == many.run == [origin]
    assert alone.failed == many.failed
    one, other = (read_results(tmp_path / str(n), cells)[origin] for n in (1, 2))
    assert one["metrics"] == other["metrics"]


def test_a_failing_cell_does_not_end_the_others(place: Place, tmp_path: Path) -> None:
    bad = replace(CELL, method="awm+taau=1")
    report = run_grid([bad, CELL], place, tmp_path)
    assert report.run == [CELL]
    assert "did you mean 'tau'" in report.failed[bad]
    assert not cell_path(tmp_path, bad).exists()
    assert run_grid([bad, CELL], place, tmp_path).failed.keys() == {bad}


def test_a_result_that_comes_meanwhile_is_kept(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = cell_path(tmp_path, CELL)

    def slow(cell: Cell, where: Place) -> dict[str, Any]:
        path.write_bytes(b"mine")
        return {"found": 1}

    monkeypatch.setattr(workers, "run_cell", slow)
    run_grid([CELL], place, tmp_path)
    assert path.read_bytes() == b"mine"
    kept = path.parent / "awm-1" / path.name
    assert json.loads(kept.read_text()) == {"found": 1}
    assert f"{path} came meanwhile and is kept; found: {kept}" in capsys.readouterr().err


def test_interrupted_cell_is_not_kept(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from awm_defense.awm.engine import Engine

    def interrupted(self: Engine, number: int) -> dict[str, float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_grid([CELL], place, tmp_path)
    assert state(tmp_path) == {}


def test_results_of_another_network_are_refused(tmp_path: Path) -> None:
    place = Place(tmp_path / "models", None, "cpu")
    write_network(place.folder(CELL))
    run_grid([CELL], place, tmp_path)
    write_network(place.folder(CELL), seed=1)
    with pytest.raises(ValueError, match="another network"):
        run_grid([CELL], place, tmp_path)
    # Without the networks, results can still be read.
    assert run_grid([CELL], Place(tmp_path / "none", None, "cpu"), tmp_path).run == []


@pytest.mark.parametrize("changed", ["target", "trigger"])
def test_results_of_another_attack_are_refused(changed: str, tmp_path: Path) -> None:
    place = Place(tmp_path / "models", None, "cpu")
    folder = place.folder(CELL)
    write_network(folder)
    image = torch.rand(3, 32, 32)
    attack = make_attack("trojan_sq", 8, num_classes=10, trigger_image=image)
    manifest = {"arch": "small_vgg", "dataset": "digits", "num_classes": 10}
    manifest |= write_attack(folder, attack)
    write_manifest(folder, manifest | {"acc": 90.0})
    run_grid([CELL], place, tmp_path)
    write_manifest(folder, manifest | {"acc": 80.0})  # by which nothing is measured
    assert run_grid([CELL], place, tmp_path).run == []
    if changed == "target":
        write_manifest(folder, manifest | {"target": 7})
    else:
        write_image(folder / "trigger.png", 1 - image)
    with pytest.raises(ValueError, match=r"first20\.json was measured with another trigger"):
        run_grid([CELL], place, tmp_path)


def test_ray_finds_what_one_process_finds(place: Place, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    cells = [Cell("small_vgg", "badnets", 0, "none", limit=50), replace(CELL, method="awm+a=2")]
    alone = run_grid(cells, place, tmp_path / "alone")
    spread = run_grid(cells, place, tmp_path / "ray", ray="local", workers=2)
    assert alone.run == spread.run == cells[:1]
    assert alone.failed == spread.failed
    one, other = (read_results(tmp_path / name, cells)[cells[0]] for name in ("alone", "ray"))
    assert one["metrics"] == other["metrics"]


def test_without_ray_it_says_how_to_get_it(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'awm-kernels\[ray\]'"):
        run_grid([CELL], place, tmp_path, ray="auto")


def test_digits_are_not_mirrored(place: Place, tmp_path: Path) -> None:
    """What mirrored images show depends on the data; a setting of the method counts more."""
    asked = replace(CELL, method=f"{QUICK}+flip=true")
    run_grid([CELL, asked], place, tmp_path)
    found = read_results(tmp_path, [CELL, asked])
    assert (found[CELL]["recipe"]["flip"], found[asked]["recipe"]["flip"]) == (False, True)
    assert get_method("clp", flip=False)[1] == get_method("clp")[1]


@pytest.mark.slow
def test_studies_of_anp(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answering(model: nn.Module, number: int) -> nn.Module:
        changed = copy.deepcopy(model)
        with torch.no_grad():
            changed.classifier.bias[number] = 1e6  # type: ignore[index,operator,union-attr]
        return changed

    def with_worst_noise(task: Task, settings: Anp) -> nn.Module:
        assert len(task.images) == 100 and settings.steps == 2
        return answering(task.model, 3)

    def prune(model: nn.Module, masks: dict[str, Tensor], threshold: float) -> nn.Module:
        assert all(mask.max() <= 1 for mask in masks.values())
        return answering(model, 8) if threshold < 0.45 else answering(model, 3)

    monkeypatch.setattr(studies, "with_worst_noise", with_worst_noise)
    monkeypatch.setattr(studies, "prune", prune)
    quick = "+steps=2+batch_size=8"
    cells = [replace(CELL, method=f"anp_{study}{quick}") for study in ("perturbed", "thresholds")]
    report = run_grid(cells, place, tmp_path)
    assert report.failed == {}
    found = read_results(tmp_path, cells)
    assert found[cells[0]]["shares"] == [100 * (number == 3) for number in range(10)]
    curve = {point["threshold"]: point for point in found[cells[1]]["curve"]}
    assert list(curve) == list(THRESHOLDS)
    assert curve[0.4]["asr_all"] == curve[0.4]["asr"] == 100
    assert curve[0.5]["asr_all"] == 0


def test_results_of_other_settings_are_refused(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_grid([CELL], place, tmp_path)
    before = state(tmp_path)
    assert run_grid([CELL], place, tmp_path).run == []
    changed = replace(RECIPES["official"], gamma=1e-7)
    monkeypatch.setitem(RECIPES, "official", changed)
    with pytest.raises(ValueError, match=r"first20.json was measured with gamma 1e-08.* 1e-07"):
        run_grid([CELL], place, tmp_path)
    assert state(tmp_path) == before


def test_a_result_may_be_older_than_a_setting_that_does_nothing() -> None:
    then: dict[str, object] = {
        "name": "official",
        "layers": "conv",
        "trigger_targets": "predictions",
    }
    then |= {"mask_lr_decay": 0.9, "flip": False, "tau": 100.0}
    cell = Cell("small_vgg", "badnets", None, "awm")
    assert changed_settings(cell, {"recipe": then}) == {}
    infinite = replace(cell, method="no_clip")
    assert changed_settings(infinite, {"recipe": {**then, "tau": "inf"}}) == {}
    grown = replace(cell, method="awm+grown=2")
    assert changed_settings(grown, {"recipe": then}) == {"grown": (0, 2)}
    assert changed_settings(cell, {"recipe": None}) == {}
