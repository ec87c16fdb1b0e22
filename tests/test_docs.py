"""The documents are true: blocks run, commands parse, links and paths lead somewhere."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import awm_kernels
from awm_defense import get_settings
from awm_defense.commands.main import build_parser

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
# Folders that files are named from, and files as inline code; NAME stands for one to be written.
HOMES = (ROOT, ROOT / "python/awm_defense")
FOLDERS = "|".join(path.name for home in HOMES for path in home.iterdir() if path.is_dir())
FILE = re.compile(rf"`((?:{FOLDERS})/[\w./-]+\.\w+)`")
COMMANDS = ("demo", "train", "examine", "purify", "evaluate", "reproduce", "info")
# What a block in another language is, and so why it is not run.
NOT_RUN = {"text": "output, or a sketch"}


class Block(NamedTuple):
    language: str
    code: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page.read_text("utf-8"))]


def code_of(page: Path, language: str) -> list[str]:
    return [block.code for block in blocks(page) if block.language == language]


def commands(page: Path) -> list[list[str]]:
    """Each command of the blocks without a language, in words, without comments."""
    lines = "\n".join(code_of(page, "")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def tiny_network() -> nn.Module:
    pooled = [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(8 * 4 * 4, 10)]
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), *pooled)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_blocks_are_of_known_languages(page: Path) -> None:
    assert {block.language for block in blocks(page)} <= {"", "python", *NOT_RUN}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a page share their names, and find what a reader brings along."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {
        "model": tiny_network(),
        "another": tiny_network(),
        "images": torch.rand(10, 3, 8, 8),
        "labels": torch.arange(10),
    }
    for code in code_of(page, "python"):
        exec(compile(code, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_can_be_given(page: Path) -> None:
    for words in commands(page):
        program = words[0]
        if program.startswith("bench/"):
            assert (ROOT / program).exists(), program
            continue
        assert program in CHECKS, f"{page.name}: no check for {program}"
        CHECKS[program](words[1:])


def check_awm(words: list[str]) -> None:
    args = build_parser().parse_args(words)
    changes = dict(setting.split("=") for setting in getattr(args, "set", []))
    if changes:
        get_settings(args.recipe).with_options(changes)


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for word in words:
        pattern = rf"^{word.split('=')[0]} \?=" if "=" in word else rf"^{re.escape(word)}:"
        assert re.search(pattern, makefile, re.MULTILINE), f"make {word}"


def check_pip(words: list[str]) -> None:
    assert words[0] == "install"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    for word in words[1:]:
        found = re.fullmatch(r"\.\[([\w,]+)\]", word)
        assert found is None or set(found[1].split(",")) <= set(extras), word


def check_python(words: list[str]) -> None:
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1]) is not None, words
    else:
        assert (ROOT / words[0]).exists(), words


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "awm": check_awm,
    "make": check_make,
    "pip": check_pip,
    "python": check_python,
    "git": lambda words: None,
    "pre-commit": lambda words: None,
}


@functools.cache
def options_of(command: str) -> set[str]:
    """What the help of `awm COMMAND` lists."""
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        build_parser().parse_args([*command.split(), "--help"])
    return set(re.findall(r"--[a-z][a-z-]*", shown.getvalue()))


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_options_and_targets_that_are_named_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text("utf-8"))
    for command, rest in re.findall(r"`awm (\w+)([^`]*)`", text):
        assert options_of(command) >= set(re.findall(r"--[a-z-]+", rest)), (command, rest)
    for targets in re.findall(r"`make ([^`=]+)`", text):
        check_make(targets.split())
    known = set().union(*map(options_of, COMMANDS))
    assert known >= set(re.findall(r"`(--[a-z-]+)", text))


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_to_files(page: Path) -> None:
    links = LINK.findall(page.read_text("utf-8"))
    for link in links:
        assert "://" in link or (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in FILE.findall(page.read_text("utf-8")):
        assert "NAME" in name or any((home / name).exists() for home in HOMES), name


@pytest.mark.parametrize("script", sorted((ROOT / "docs").glob("*.py")), ids=lambda path: path.name)
def test_scripts_find_what_they_import(script: Path) -> None:
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_every_setting_of_a_recipe_that_is_named_exists() -> None:
    fields = vars(get_settings("default"))
    rows = re.findall(
        r"^\| ((?:`\w+`(?:, )?)+): ", (ROOT / "docs/recipes.md").read_text("utf-8"), re.M
    )
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert len(named) > 15
    assert named <= set(fields), named - set(fields)


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}\n" in navigation, page.name


def test_everything_public_is_in_the_reference() -> None:
    import awm_defense

    text = (ROOT / "docs/api.md").read_text("utf-8")
    for package in (awm_defense, awm_kernels):
        for name in package.__all__:
            assert re.search(rf"{package.__name__}[\w.]*\.{name}\b", text), name


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


def test_there_is_one_version() -> None:
    """In awm_kernels; the newest release in the changelog is that, and other files don't say it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project.get("version", awm_kernels.__version__) == awm_kernels.__version__
    releases = re.findall(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert releases[0] == awm_kernels.__version__
    assert "\nversion:" not in (ROOT / "CITATION.cff").read_text("utf-8")
