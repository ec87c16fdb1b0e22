"""What all tests need."""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from awm_kernels import _backend

# Of `python -m tests.sanitize`: a folder with other builds of the kernels.
SANITIZED = os.environ.get("AWM_SANITIZED")
if SANITIZED is not None:
    _backend.LIBRARY = Path(SANITIZED) / _backend.LIBRARY.name


def pytest_configure(config: pytest.Config) -> None:
    """Take signals as in a terminal: started in the background, a process ignores some of them,
    and so would every command that a test starts and interrupts."""
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
