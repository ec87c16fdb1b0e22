"""What all tests need."""

import contextlib
import signal

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Take signals as in a terminal: started in the background, a process ignores some of them,
    and so would every command that a test starts and interrupts."""
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
