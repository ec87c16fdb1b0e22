"""Reports: valid JSON, one page that needs no other file, pictures that show what they should."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from awm_defense.awm.recipe import get_recipe
from awm_defense.examination.verdict import Verdict
from awm_defense.report.pictures import draw_image, draw_trigger
from awm_defense.report.write import write_report
from awm_defense.result import PurifyResult
from awm_defense.working.precision import Precision


def make_result(**changes: object) -> PurifyResult:
    fields: dict[str, object] = {
        "model": nn.Identity(),
        "masks": {"features.0": torch.rand(4, 3, 3, 3), "classifier": torch.ones(10, 8)},
        "trigger": torch.randn(3, 32, 32),
        "history": [
            {"epoch": 0, "clean_loss": 0.1, "trigger_loss": 2.0, "trigger_norm": 90.0},
            {"epoch": 1, "clean_loss": 0.2, "trigger_loss": 1.0, "trigger_norm": 80.0},
        ],
        "seconds": 1.5,
        "peak_memory_mb": 300.0,
        "recipe": get_recipe("default"),
        "precision": Precision(torch.bfloat16),
        "notes": ["BatchNorm was <folded>"],
    }
    return PurifyResult(**{**fields, **changes})  # type: ignore[arg-type]


def test_json_has_the_run_and_both_measurements(tmp_path: Path) -> None:
    before, after = {"acc": 99.0, "asr": 100.0}, {"acc": 97.5, "asr": 0.5}
    write_report(
        tmp_path, result=make_result(), title="t", before=before, after=after, extra={"seed": 3}
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["before"] == before
    assert report["after"] == after
    assert report["seconds"] == 1.5
    assert report["peak_memory_mb"] == 300.0
    assert report["seed"] == 3
    assert report["recipe"]["name"] == "default"
    assert {"tau", "alpha", "gamma"} <= set(report["recipe"])
    assert report["versions"]["torch"] == torch.__version__
    assert report["notes"] == ["BatchNorm was <folded>"]


def test_without_an_attack_there_is_no_before_and_after(tmp_path: Path) -> None:
    write_report(tmp_path, result=make_result(), title="t")
    report = json.loads((tmp_path / "report.json").read_text())
    assert not {"before", "after"} & set(report)
    assert "attack success" not in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "triggered.png").exists()


def test_an_earlier_report_leaves_nothing_behind(tmp_path: Path) -> None:
    images = {name: torch.rand(3, 32, 32) for name in ("triggered_image", "clean_image")}
    write_report(tmp_path, result=make_result(), title="t", **images)
    assert len(list(tmp_path.glob("*.png"))) == 6
    write_report(tmp_path, result=make_result(masks={}, history=[], trigger=None), title="t")
    assert not list(tmp_path.glob("*.png"))


def test_what_the_verdict_found_is_shown(tmp_path: Path) -> None:
    trigger = torch.zeros(3, 32, 32)
    trigger[:, 4, 6] = 1.0
    margins = torch.ones(10)
    margins[3] = 9.0
    for backdoored in (True, False):
        verdict = Verdict(backdoored, 3, "added to", 5.0, "L1", 9.0, 1.0, trigger, margins)
        result = make_result(verdict=verdict)
        write_report(tmp_path, result=result, title="t", clean_image=torch.zeros(3, 32, 32))
        assert (tmp_path / "found.png").exists() == backdoored
        if backdoored:
            with Image.open(tmp_path / "found.png") as picture:
                lit = np.asarray(picture)[4::8, 4::8, 0]
            assert np.argwhere(lit).tolist() == [[4, 6]]
            assert "trigger found for class 3" in (tmp_path / "report.html").read_text()
        # The bar of the class named is red, and alone in that.
        with Image.open(tmp_path / "margins.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        red = (pixels[..., 0] - pixels[..., 2] > 100).nonzero()[1]
        blue = (pixels[..., 2] - pixels[..., 0] > 100).nonzero()[1]
        assert len(red) and not set(red) & set(blue)
        assert np.unique(red).size < np.unique(blue).size / 8


def test_a_warp_of_a_float64_network_is_shown(tmp_path: Path) -> None:
    shifts = torch.full((2, 4, 4), 0.5, dtype=torch.float64)
    verdict = Verdict(True, 3, "warped", 0.5, "pixels", 9.0, 1.0, shifts, torch.ones(10))
    result = make_result(verdict=verdict)
    write_report(tmp_path, result=result, title="t", clean_image=torch.rand(3, 32, 32))
    assert (tmp_path / "found.png").read_bytes() != (tmp_path / "clean.png").read_bytes()


def test_values_that_json_lacks_become_null(tmp_path: Path) -> None:
    history = [{"epoch": 0, "clean_loss": math.nan, "trigger_norm": math.inf}]
    write_report(tmp_path, result=make_result(history=history), title="t")
    epoch = json.loads((tmp_path / "report.json").read_text())["history"][0]
    assert epoch == {"epoch": 0, "clean_loss": None, "trigger_norm": None}


def test_page_needs_no_other_file_and_escapes_text(tmp_path: Path) -> None:
    images = {"clean_image": torch.rand(3, 32, 32), "triggered_image": torch.rand(3, 32, 32)}
    write_report(tmp_path, result=make_result(), title="<script>x</script>", **images)
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page
    assert "BatchNorm was &lt;folded&gt;" in page
    assert page.count("<img") == page.count('src="data:image/png;base64,') == 6
    assert "http" not in page
    for name in ("clean", "triggered", "recovered", "trigger", "masks", "history"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) >= 200


def test_nothing_that_cannot_be_printed_is_in_the_page(tmp_path: Path) -> None:
    hostile = "\x1b[2J\udce9\u202e$\\x$.png"
    facts = {"image_files": [hostile], "a mapping": {hostile: hostile}, hostile: hostile}
    result = make_result(masks={hostile: torch.rand(4)}, notes=[hostile])
    write_report(tmp_path, result=result, title=hostile, extra=facts)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.replace("\n", "").isprintable()
    assert page.count(r"\x1b[2J\udce9\u202e$\x$.png") >= 6


@pytest.mark.parametrize("changes", [{"history": []}, {"masks": {}}, {"notes": []}])
def test_nothing_to_show_is_no_error(tmp_path: Path, changes: dict[str, object]) -> None:
    write_report(tmp_path, result=make_result(**changes), title="t")
    assert (tmp_path / "report.html").stat().st_size > 0


def test_saved_image_keeps_every_pixel(tmp_path: Path) -> None:
    image = torch.arange(3 * 32 * 32).reshape(3, 32, 32).remainder(256) / 255
    (tmp_path / "image.png").write_bytes(draw_image(image))
    with Image.open(tmp_path / "image.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (256, 256, 3)
    assert np.array_equal(pixels[4::8, 4::8], (image * 255).round().permute(1, 2, 0).numpy())


def test_trigger_is_grey_where_nothing_changes(tmp_path: Path) -> None:
    trigger = torch.zeros(3, 4, 4)
    trigger[:, 0, 0], trigger[:, 3, 3] = 2.0, -2.0
    for scaled, corners in ((trigger, (255, 0)), (0 * trigger, (128, 128))):
        (tmp_path / "trigger.png").write_bytes(draw_trigger(scaled))
        with Image.open(tmp_path / "trigger.png") as picture:
            pixels = np.asarray(picture)
        assert pixels[0, 0, 0] == corners[0]
        assert pixels[-1, -1, 0] == corners[1]
        assert pixels[0, -1, 0] == 128
