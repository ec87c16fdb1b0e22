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
    """Which signal asked the command to end."""

    number: int = signal.SIGINT

    @property
    def code(self) -> int:
        """What a shell reports for a command that the signal ended."""
        return 128 + self.number


@contextmanager
def interruptible() -> Iterator[Ending]:
    """Meanwhile every signal that asks to end raises KeyboardInterrupt in the main thread.

    A signal that is ignored stays so, as `nohup` wants it, and so does a handler of the caller's.
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
    try:
        for number in before:
            signal.signal(number, interrupt)
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
