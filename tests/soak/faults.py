"""Work in a forked process, which is ended at a chosen step of its writing or at any moment."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

Work = Callable[[], int]


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, or minus the signal; what it passed, and how long."""

    code: int
    points: int
    seconds: float


class Points:
    """Counts the steps that change files, and dies by SIGKILL at one of them."""

    def __init__(self, last: int | None) -> None:
        self.last, self.passed = last, 0

    def pass_one(self) -> None:
        self.passed += 1
        if self.passed == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The step with a point before and one after it."""

        def run(*args: Any, **options: Any) -> Any:
            self.pass_one()
            found = step(*args, **options)
            self.pass_one()
            return found

        return run

    def install(self) -> None:
        """Have points around every step of `awm_defense.files` in this process."""
        for name in ("fsync", "replace", "rmdir"):
            setattr(os, name, self.around(getattr(os, name)))
        Path.unlink = self.around(Path.unlink)  # type: ignore[method-assign]
        opened, points = Path.open, self

        def open_path(path: Path, mode: str = "r", *args: Any, **options: Any) -> IO[Any]:
            points.pass_one()
            file = opened(path, mode, *args, **options)
            if "x" in mode:
                write = file.write

                def in_two(data: bytes) -> int:
                    write(data[: len(data) // 2])
                    file.flush()
                    points.pass_one()
                    return write(data[len(data) // 2 :])

                file = _Writing(file, in_two)  # type: ignore[assignment]
            return file

        Path.open = open_path  # type: ignore[method-assign,assignment]


class _Writing:
    """A file whose `write` is another one."""

    def __init__(self, file: IO[Any], write: Callable[[bytes], int]) -> None:
        self._file, self.write = file, write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Writing:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def run(work: Work, fault: Callable[[int], None] | None = None, last: int | None = None) -> Ended:
    """Do the work in a forked process.

    Args:
        work: returns the exit code.
        fault: is called with the process's number, to end it.
        last: the point at which it dies.
    """
    reads, writes = os.pipe()
    started = time.perf_counter()
    process = os.fork()
    if process == 0:
        _be_the_child(work, last, writes)
    os.close(writes)
    if fault is not None:
        fault(process)
    _, status = os.waitpid(process, 0)
    with os.fdopen(reads, "rb") as pipe:
        told = pipe.read()
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, int(told or 0), time.perf_counter() - started)


def _be_the_child(work: Work, last: int | None, writes: int) -> None:
    code = 99
    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        points = Points(last)
        points.install()
        code = work()
        os.write(writes, str(points.passed).encode())
    finally:
        os._exit(code)


def after(seconds: float, *signals: int, gap: float = 0.0) -> Callable[[int], None]:
    """Sends the signals after so many seconds, with `gap` seconds between them."""

    def fault(process: int) -> None:
        time.sleep(seconds)
        for number in signals:
            try:
                os.kill(process, number)
            except ProcessLookupError:
                return
            time.sleep(gap)

    return fault


def kill_soon(random_: random.Random, longest: float) -> Callable[[int], None]:
    """SIGKILL at a random moment."""
    return after(random_.uniform(0, longest), signal.SIGKILL)


def interrupt_twice(random_: random.Random, longest: float) -> Callable[[int], None]:
    """SIGINT at a random moment, and a second one while what there is may be written."""
    first, gap = random_.uniform(0, longest), random_.uniform(0, 0.5 * longest)
    return after(first, signal.SIGINT, signal.SIGINT, gap=gap)


def terminate(random_: random.Random, longest: float) -> Callable[[int], None]:
    """SIGTERM at a random moment."""
    return after(random_.uniform(0, longest), signal.SIGTERM)
