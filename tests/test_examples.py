"""The examples run and do what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested() -> None:
    tested = {"own_network", "own_attack", "kernels_alone"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


@pytest.mark.slow
def test_own_network_is_purified_and_reported(tmp_path: Path) -> None:
    before, after = load("own_network").main(tmp_path / "report")
    assert before["asr"] > 95
    assert after["asr"] < 40
    assert after["acc"] > before["acc"] - 5
    assert "A network of my own" in (tmp_path / "report" / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_own_attack_is_planted_and_erased(capsys: pytest.CaptureFixture[str]) -> None:
    before, after = load("own_attack").main()
    assert before["asr"] > 95
    assert after["asr"] < 20
    assert after["acc"] > before["acc"] - 5
    assert "90 of 901 training images are poisoned" in capsys.readouterr().out


@pytest.mark.slow
def test_the_kernels_alone_prune_a_network() -> None:
    dense, sparse, zeros = load("kernels_alone").main()
    assert dense > 90
    assert sparse > dense - 6
    assert 50 < zeros < 95
