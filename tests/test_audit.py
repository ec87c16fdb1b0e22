"""The lock file has what the package needs; a finding fails, and what is skipped is told."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests import audit

ROOT = Path(__file__).parents[1]
FINE = {"name": "numpy", "version": "2.4.6", "vulns": []}
FOUND = {"id": "PYSEC-1", "fix_versions": ["12.1"], "aliases": [], "description": ""}
BAD = {"name": "pillow", "version": "12.0", "vulns": [FOUND]}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found"}


def test_the_lock_file_has_every_dependency() -> None:
    locked = {
        Requirement(line).name: Requirement(line)
        for line in audit.LOCK.read_text().splitlines()
        if not line.startswith("#")
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"]:
        declared = Requirement(line)
        (pin,) = locked[declared.name].specifier
        assert pin.operator == "=="
        assert declared.specifier.contains(pin.version)


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    reasons = (ROOT / "SECURITY.md").read_text("utf-8").split("## Dependencies")[1]
    rows = [line.split("|")[1] for line in reasons.splitlines() if line.startswith("|")]
    told = {name.strip() for row in rows for name in row.split(",")}
    assert {Requirement(line).name for line in names} <= told


@pytest.mark.parametrize(
    ("packages", "code", "says"),
    [
        ([FINE], 0, "1 of 1 packages were looked up"),
        ([FINE, BAD], 1, "pillow 12.0: PYSEC-1, mended in 12.1"),
        ([FINE, UNKNOWN], 0, "1 of 2 packages were looked up\naudit: SKIPPED.*: torch"),
        ([BAD, UNKNOWN], 1, "PYSEC-1"),
    ],
)
def test_what_pip_audit_answers(
    packages: list[object], code: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = json.dumps({"dependencies": packages, "fixes": []})
    _answers(monkeypatch, answer, "")
    text, found = audit.audit()
    assert found == code
    assert re.search(says, text)


def test_without_the_service_it_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, "", "requests.exceptions.ConnectionError: no route")
    text, code = audit.audit()
    assert code == 0
    assert "SKIPPED: the advisory service can't be reached" in text


def test_another_failure_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, "", "No module named pip_audit")
    text, code = audit.audit()
    assert code == 1
    assert "No module named pip_audit" in text


def _answers(monkeypatch: pytest.MonkeyPatch, out: str, error: str) -> None:
    done = subprocess.CompletedProcess([], 1, out, error)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
