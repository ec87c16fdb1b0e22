"""Memory for large tensors on a CPU.

PyTorch asks the C library for the memory of every result. The GNU C library maps what is larger
than 32 MiB anew each time, and gives memory at the end of its heap back to the system; the kernel
then fills the pages with zeros again, which takes longer than a rectifier over them.
"""

import ctypes
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Of mallopt(3).
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
KEEP = {TRIM_THRESHOLD: -1, MMAP_MAX: 0}
# What the library's own adjustment, which ends with the first call of mallopt, reaches where a
# program has freed large tensors.
ADJUSTED = {TRIM_THRESHOLD: 64 << 20, MMAP_THRESHOLD: 32 << 20, MMAP_MAX: 65536}

_lock = threading.RLock()
_users: set[object] = set()


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Meanwhile memory that is freed stays with the process, for the next tensor of its size.

    After the last of those inside, it goes back to the system. A process that is forked meanwhile
    starts without. Does nothing without the GNU C library, or where its settings come from the
    environment (`MALLOC_..._`, `GLIBC_TUNABLES`).
    """
    if not _adjustable():
        yield
        return
    user = object()
    try:
        _enter(user)
        yield
    finally:
        _leave(user)


def trim() -> None:
    """Give the system what has been freed so far; does nothing where nothing is kept."""
    if _adjustable():
        ctypes.CDLL(None).malloc_trim(0)


def _adjustable() -> bool:
    given = os.environ
    asked = "glibc.malloc" in given.get("GLIBC_TUNABLES", "") or any(
        name.startswith("MALLOC_") and name.endswith("_") for name in given
    )
    return platform.libc_ver()[0] == "glibc" and not asked


def _enter(user: object) -> None:
    with _lock:
        _users.add(user)
        if len(_users) == 1:
            _set(KEEP)


def _leave(user: object) -> None:
    # An interrupt may come before a user has entered, and a forked process has none.
    with _lock:
        if user not in _users:
            return
        try:
            _users.remove(user)
        finally:
            if not _users:
                _set(ADJUSTED)
                trim()


def _start_anew() -> None:
    """In a forked process: none of the parent's users go on here, and none holds the lock."""
    global _lock
    _lock = threading.RLock()
    if _users:
        _users.clear()
        _set(ADJUSTED)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def _set(options: dict[int, int]) -> None:
    library = ctypes.CDLL(None)
    for option, value in options.items():
        library.mallopt(option, value)
