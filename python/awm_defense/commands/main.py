"""The `awm` command: reads the command line, calls one command, turns errors into one line.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done,
2 wrong input (one line on standard error), 130 interrupted. With the environment variable
AWM_DEBUG set, an error keeps its traceback.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from awm_defense.commands import demo, evaluate, examine, info, purify, reproduce, train

COMMANDS = (demo, train, examine, purify, evaluate, reproduce, info)


class _Parser(argparse.ArgumentParser):
    """argparse, but a wrong command line is an exception like any other wrong input."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see `{self.prog} --help`)")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; each command adds its own part."""
    parser = _Parser(
        prog="awm", description="Find and erase backdoors in image classifiers from a few images."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `awm` with the given arguments (default: the process's own); returns the exit code."""
    try:
        args = build_parser().parse_args(argv)
        code: int = args.run(args)
        return code
    except KeyboardInterrupt:
        print("awm: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if os.environ.get("AWM_DEBUG"):
            raise
        # PyTorch's messages run over many lines; the first says what is wrong.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        print(f"awm: error: {lines[0]}", file=sys.stderr)
        return 2
