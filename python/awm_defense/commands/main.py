"""The `awm` command: reads the command line, calls one command, turns errors into one line.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 part of
it failed, 2 wrong input, 70 an error that nobody has foreseen, 128 + N ended by signal N (Ctrl-C is
130). An error is one line on standard error; with `--debug`, or the environment variable AWM_DEBUG
set, its traceback comes before it.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

# What imports PyTorch is imported below: `awm_defense.__main__` does so while Ctrl-C is one line.
from awm_defense.commands.signals import interruptible


class _Parser(argparse.ArgumentParser):
    """argparse, but a wrong command line is an exception like any other wrong input."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see `{self.prog} --help`)")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; each command adds its own part."""
    from awm_defense.commands import demo, evaluate, examine, info, purify, reproduce, train

    parser = _Parser(
        prog="awm", description="Find and erase backdoors in image classifiers from a few images."
    )
    _add_debug(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (demo, train, examine, purify, evaluate, reproduce, info):
        command.add_parser(commands)
    for added in commands.choices.values():
        _add_debug(added)
    return parser


def _add_debug(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `awm` with the given arguments (default: the process's own); returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    # Also where the words can't be parsed.
    debug = "--debug" in words or bool(os.environ.get("AWM_DEBUG"))
    with interruptible(restore=argv is not None) as ending:
        try:
            from awm_defense.commands.origins import named_by

            args = build_parser().parse_args(words)
            with named_by(args):
                code: int = args.run(args)
            if sys.stdout is not None:
                sys.stdout.flush()  # what can't be printed is an error like any other
            return code
        except KeyboardInterrupt:
            ending.ignore()  # whoever is impatient would only see a traceback
            print("awm: interrupted", file=sys.stderr)
            return ending.code
        except BrokenPipeError:
            return _without_reader()
        except Exception as error:
            from awm_defense.commands.errors import explain, of_output

            if debug:
                traceback.print_exc()
            line, code = explain(error)
            print(f"awm: error: {line}", file=sys.stderr)
            if of_output(error):
                _drop_output()
            return code


def _without_reader() -> int:
    """Whoever read standard output, such as `head`, has what it wanted; returns the exit code."""
    _drop_output()
    return 128 + 13  # SIGPIPE, which Windows has no name for


def _drop_output() -> None:
    """Python would try to print the rest when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
