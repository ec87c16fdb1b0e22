"""Any words after `awm`: the work begins, or one line says what is wrong."""

from __future__ import annotations

import argparse
import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from awm_defense.commands import demo, evaluate, examine, networks, purify, reproduce
from awm_defense.commands.main import build_parser, main
from awm_defense.files.checkpoint import save_model
from awm_defense.training import backdoor
from awm_defense.working.compute import Compute
from tests.properties.networks import network

NETWORK = {"": ["net.safetensors"], "--arch": ["small_vgg"], "--num-classes": ["10"]}
DATA = {"--dataset": ["digits"]}
OUT = {"--out": ["out"]}
# Words that begin the work.
USUAL: dict[str, dict[str, list[str]]] = {
    "demo": OUT,
    "train": {"--attack": ["badnets"], "--arch": ["small_vgg"], "--images": ["20"], **DATA, **OUT},
    "examine": NETWORK | DATA,
    "purify": NETWORK | DATA | OUT,
    "evaluate": NETWORK | DATA,
    "reproduce": {"": ["table1"], "--models": ["."], **OUT},
    "info": {},
}
# What does the work, and makes or measures networks: where it stands, by its name there.
WORK = [
    (demo, ("train", "evaluate", "purify")),
    (examine, ("examine",)),
    (evaluate, ("evaluate", "accuracy", "purify")),
    (purify, ("purify_many", "synthesize")),
    (reproduce, ("run_grid",)),
    (backdoor, ("train",)),
]
MOST = 800
DIGITS = 10


def _commands() -> dict[str, dict[str, argparse.Action]]:
    """The options of each command; positional words have the name ""."""
    parsers = next(a.choices for a in build_parser()._actions if isinstance(a.choices, dict))
    return {
        name: {(action.option_strings or [""])[-1]: action for action in parser._actions}
        for name, parser in parsers.items()
    }


COMMANDS = _commands()
words = st.one_of(
    st.text(st.characters(exclude_characters="\0/"), max_size=12),
    st.floats().map(str),
    st.integers().map(str),
    st.sampled_from(["", "-", "--", "-1", "0", "1", "2", "1e400", "nan", "1_0", "٣", "0x10"]),
    st.sampled_from(["9" * 300_000, "-" + "9" * 5000, "x" * 300_000, "\x1b[2J", "\n", "\udc80"]),
    st.sampled_from(["tau=nan", "epochs=-1", "=", "a=b", "...", "net.safetensors", "folder"]),
    st.sampled_from(["cpu", "cuda", "meta", "cpu:99999999999999999999"]),
)


@pytest.fixture(autouse=True)
def _no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: Any, **__: Any) -> NoReturn:
        raise ValueError("the work began")

    for module, names in WORK:
        for name in names:
            monkeypatch.setattr(module, name, reached)
    for module in (backdoor, demo):
        monkeypatch.setattr(module, "build_model", lambda *_: network(DIGITS))
    monkeypatch.setattr(networks, "build_named", lambda *_, **__: network(DIGITS))
    monkeypatch.setattr(backdoor, "fastest", lambda *_: Compute())
    monkeypatch.chdir(tmp_path)
    save_model(Path("net.safetensors"), network(DIGITS))
    Path("folder").mkdir()


def awm(argv: list[str]) -> tuple[int, str]:
    """The exit code, and what stands on standard error."""
    error = io.StringIO()
    with redirect_stderr(error), redirect_stdout(io.StringIO()):
        try:
            code = main(argv)
        except SystemExit as end:  # of --help
            code = int(end.code or 0)
    return code, error.getvalue()


@st.composite
def _arguments(draw: st.DrawFn, command: str) -> list[str]:
    """The usual words with some left out, others added or changed, in any order."""
    known = COMMANDS[command]
    groups = [[flag, *values] for flag, values in USUAL[command].items()]
    for flag in draw(st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=4)):
        if flag in ("--debug", "--help"):
            continue
        choices = [str(choice) for choice in known[flag].choices or ()]
        value = st.one_of(st.sampled_from(choices), words) if choices else words
        count = 0 if known[flag].nargs == 0 else draw(st.sampled_from([1, 1, 1, 1, 0, 2, 3]))
        groups = [group for group in groups if group[0] != flag or draw(st.booleans())]
        groups.append([flag, *(draw(value) for _ in range(count))])
    ordered = draw(st.permutations(groups))
    return [word for group in ordered for word in group if word or group[0]]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_usual_words_begin_the_work(command: str) -> None:
    usual = [word for flag, values in USUAL[command].items() for word in (flag, *values) if word]
    code, error = awm([command, *usual])
    assert code == 0 if command == "info" else error.endswith("awm: error: the work began\n"), error


@pytest.mark.parametrize("command", COMMANDS)
@given(data=st.data())
def test_any_words_begin_the_work_or_get_one_line(command: str, data: st.DataObject) -> None:
    _ends_in_one_line([command, *data.draw(_arguments(command))])


@given(argv=st.lists(st.one_of(words, st.sampled_from(sorted(COMMANDS))), max_size=4))
def test_any_words_at_all_get_one_line(argv: list[str]) -> None:
    _ends_in_one_line(argv)


def _ends_in_one_line(argv: list[str]) -> None:
    code, error = awm(argv)
    if code == 0:
        return
    *before, last = error.split("\n")[:-1]
    assert code == 2 and last.startswith("awm: error: "), (code, error[-2000:])
    assert not any("error" in line or "Traceback" in line for line in before), error[-2000:]
    assert last.isprintable() and len(last) <= MOST, last
