"""`awm`, and `python -m awm_defense`: the process of the command.

Importing takes time, in which Ctrl-C is one line, too; so almost nothing is imported up here.
"""

import os
import sys


def main() -> int:
    """Run `awm` with the words that the process was given; returns the exit code."""
    try:
        import signal

        # One that is ignored stays so.
        heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if heard:
            signal.signal(signal.SIGINT, _end)
        import torch  # noqa: F401 - it aborts where an exception comes while it is imported

        from awm_defense.commands.main import main as run
        from awm_defense.commands.stderr import Dropping

        sys.stderr = Dropping.in_place_of(sys.stderr)
        if heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return run()
    except KeyboardInterrupt:  # outside of what `run` listens to
        return _end()


def _end(number: int = 2, frame: object = None) -> int:
    """End the process at once: there is nothing yet to be put in order."""
    try:
        os.write(2, b"awm: interrupted\n")
    finally:
        os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
