"""No file of the corpus is executed, hangs, takes much memory or ends in a traceback."""

from __future__ import annotations

import pickle
import re
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from PIL import Image

from awm_defense.files.checkpoint import load_state_dict
from tests.hostile.case import MEMORY, Case, harm, network, run_case, trap
from tests.hostile.checkpoints import good_files
from tests.hostile.corpus import all_cases
from tests.hostile.pixels import EPS
from tests.hostile.scanners import pickles

CASES = all_cases()


@pytest.mark.filterwarnings("ignore:.*not the official file", "ignore:gtsrb")
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_is_refused_in_one_sentence(case: Case, tmp_path: Path) -> None:
    found = run_case(case, tmp_path)
    assert not found.executed
    assert found.traceback is None
    assert not found.hung
    assert found.memory < MEMORY
    if found.message is None:
        assert case.says is None, "it was read"
        return
    assert found.named, found.message
    # One line, without terminal escapes, that fits into a few lines of a terminal.
    assert found.message.isprintable()
    assert len(found.message) < 1500
    if case.says is not None:
        assert re.search(case.says, found.message), found.message


def test_what_is_mutated_is_good_before(tmp_path: Path) -> None:
    for content in good_files().values():
        path = tmp_path / "net"
        path.write_bytes(content)
        found, expected = load_state_dict(path), network().state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_corpus_is_large() -> None:
    assert len(CASES) == len({case.name for case in CASES})
    assert len(CASES) > 350


@pytest.mark.parametrize(
    "name",
    [
        *("malicious0", "malicious10", "malicious11", "malicious12", "malicious12-modelscan"),
        *("malicious-invalid-bytes", "malicious23", "GHSA-46h3-79wf-xr6c", "GHSA-955r-x9j8-7rhh"),
        *("GHSA-84r2-jw7c-4r5q", "GHSA-9m3x-qqw2-h32h", "keyerror-exploit", "unsafe-keras"),
        *(f"malicious{kind}_v{protocol}" for kind in (1, 2) for protocol in range(6)),
    ],
)
def test_pickle_alone_would_do_harm(name: str, tmp_path: Path) -> None:
    """So a pickle that does none where this project reads it proves something."""
    path = tmp_path / "net.pkl"
    build, _ = pickles()[name]
    with suppress(Exception):  # some break off after it
        pickle.loads(build(path))
    assert harm(path).exists()


def test_pillow_alone_would_start_a_program(tmp_path: Path) -> None:
    """So the trap works, and a file that does not spring it proves something."""
    path = tmp_path / "trigger.png"
    path.write_bytes(EPS)
    with trap(tmp_path / "bin", harm(path)):
        image = Image.open(path)
        with pytest.raises(Exception):  # noqa: B017 - whatever becomes of the picture
            image.load()
    assert harm(path).exists()
