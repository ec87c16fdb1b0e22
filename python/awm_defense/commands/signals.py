"""SIGTERM and SIGHUP end a command as Ctrl-C does."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from awm_defense.files.uninterrupted import ENDING


@dataclass
class Ending:
    """Which signal asked the command to end, and which are listened to."""

    number: int = signal.SIGINT
    heard: tuple[int, ...] = ()

    @property
    def code(self) -> int:
        """What a shell reports for a command that the signal ended."""
        return 128 + self.number

    def ignore(self) -> None:
        """From now on the signals change nothing: the command is ending."""
        for number in self.heard:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def interruptible(*, restore: bool) -> Iterator[Ending]:
    """Meanwhile every signal that asks to end raises KeyboardInterrupt in the main thread.

    A signal that is ignored stays so, as `nohup` wants it, and so does a handler of the caller's.

    Args:
        restore: whether signals then do what they did before; else the process is about to end, and
            they are ignored until it is gone.
    """
    ending = Ending()

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        ending.number = number
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {
            number: handler
            for number in ENDING
            if (handler := signal.getsignal(number)) in (signal.SIG_DFL, signal.default_int_handler)
        }
    ending.heard = tuple(before)
    try:
        for number in before:
            signal.signal(number, interrupt)
        yield ending
    finally:
        if restore:
            for number, handler in before.items():
                signal.signal(number, handler)
        else:
            ending.ignore()  # Python would print a traceback for one that comes while it ends
