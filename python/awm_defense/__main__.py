"""`awm`, and `python -m awm_defense`: the process of the command.

Importing takes time, in which Ctrl-C is one line, too; so almost nothing is imported up here.
"""

import io
import os
import sys

CLOSED = (
    "awm: error: standard output: it is closed; send it to a file, or to /dev/null where no one "
    "wants it"
)


def main() -> int:
    """Run `awm` with the words that the process was given; returns the exit code."""
    try:
        import signal

        # One that is ignored stays so.
        heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if heard:
            signal.signal(signal.SIGINT, _end)
        try:
            os.getcwd()  # without one PyTorch aborts the process
        except OSError:
            from awm_defense.commands import GONE

            if sys.stderr is not None:
                print(f"awm: error: {GONE}", file=sys.stderr)
            return 2
        # PyTorch, which imports tqdm, aborts where an exception comes while it is imported.
        if not _imports("tqdm", "TQDM_") or not _imports("torch", "TORCH_"):
            return 2

        from awm_defense.commands.main import main as run
        from awm_defense.commands.stderr import Dropping

        sys.stderr = Dropping.in_place_of(sys.stderr)
        if sys.stdout is None:  # results would be lost, or land in a file that has its number
            print(CLOSED, file=sys.stderr)
            return 2
        if isinstance(sys.stdout, io.TextIOWrapper):  # names need not fit its encoding
            sys.stdout.reconfigure(errors="backslashreplace")
        if heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return run()
    except KeyboardInterrupt:  # outside of what `run` listens to
        return _end()


def _imports(package: str, prefix: str) -> bool:
    """Import a package that reads variables of the environment; say which, where that fails."""
    from importlib import import_module

    try:
        import_module(package)
    except ValueError as error:
        read = ", ".join(sorted(name for name in os.environ if name.startswith(prefix)))
        if not read:
            raise
        line = (str(error).strip().splitlines() or [""])[0]
        if sys.stderr is not None:
            print(f"awm: error: {read}: expected what {package} takes: {line}", file=sys.stderr)
        return False
    return True


def _end(number: int = 2, frame: object = None) -> int:
    """End the process at once: there is nothing yet to be put in order."""
    try:
        os.write(2, b"awm: interrupted\n")
    finally:
        os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
