"""A process that reads what a stranger made, and the end of it that this one holds."""

import errno
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

# Seconds on the clock for one answer. A file is refused much earlier, by what its process computes.
PATIENCE = 60.0
# Bytes that a pipe takes or gives at once.
PIECE = 1 << 20
# By its limit, or by a system that runs out of memory.
ENDED = (signal.SIGXCPU, signal.SIGKILL)


Made = TypeVar("Made")


def _or_too_many(make: Callable[[], Made]) -> Made:
    """What `make` returns; where files run out, the system would name one that is not at fault."""
    try:
        return make()
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise OSError("too many files are open; `ulimit -n` sets how many may be") from error


class Child:
    """A program of this package in an isolated Python, and pipes to and from it.

    Each answer has `patience` seconds, whatever the program does. When it has ended, for whatever
    reason, `ask` raises ValueError that says how. The program limits the time that it computes
    itself: a clock on the wall goes on, too, where a busy machine lets it wait.

    Args:
        program: the file to run.
        arguments: given to it.
        patience: seconds for one answer, and for taking what is asked.

    Raises:
        OSError: when no process can be started.
    """

    def __init__(self, program: Path, *arguments: str, patience: float) -> None:
        self.patience = patience
        # Before the process, which would be left where there is none.
        self.selector = _or_too_many(selectors.DefaultSelector)
        # Isolated and without site-packages, so that nothing of this environment is run there.
        start = partial(
            subprocess.Popen[bytes],
            [sys.executable, "-I", "-S", str(program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        try:
            self.process = _or_too_many(start)
        except BaseException:
            self.selector.close()
            raise
        assert self.process.stdin is not None and self.process.stdout is not None
        self.to, self.back = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.to, False)
        os.set_blocking(self.back, False)
        self.selector.register(self.back, selectors.EVENT_READ)
        self.given = bytearray()
        self.deadline = 0.0

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.selector.close()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def ask(self, content: bytes | bytearray, *, last: bool = False) -> None:
        """Send bytes, and what is read next is the answer to them; `last`: no more follow."""
        self.expect()
        left = memoryview(content)
        self.selector.register(self.to, selectors.EVENT_WRITE)
        try:
            while left:
                # It may answer before it has read all.
                if self._wait() & selectors.EVENT_WRITE:
                    left = left[os.write(self.to, left[:PIECE]) :]
        except BrokenPipeError:
            raise ValueError(self._end()) from None
        finally:
            self.selector.unregister(self.to)
        if last:
            assert self.process.stdin is not None
            self.process.stdin.close()

    def expect(self) -> None:
        """The next answer has `patience` seconds from now on."""
        self.deadline = time.monotonic() + self.patience

    def read(self, size: int) -> bytes:
        """So many bytes of the answer."""
        while len(self.given) < size:
            self._wait()
        found = bytes(self.given[:size])
        del self.given[:size]
        return found

    def _wait(self) -> int:
        """Take what there is; says what else can be done now."""
        seconds = self.deadline - time.monotonic()
        ready = self.selector.select(seconds) if seconds > 0 else []
        if not ready:
            raise ValueError(self._late())
        possible = 0
        for key, events in ready:
            if key.fd == self.back:
                piece = os.read(self.back, PIECE)
                if not piece:
                    raise ValueError(self._end())
                self.given += piece
            possible |= events
        return possible

    def _end(self) -> str:
        """How the process ended."""
        try:
            code = self.process.wait(max(0.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return self._late()
        if code >= 0:
            return f"the process that read it ended with code {code}"
        name = signal.Signals(-code).name
        why = ": it took too long, or too much memory" if -code in ENDED else ""
        return f"the process that read it was ended by {name}{why}"

    def _late(self) -> str:
        """What is said where its time is over."""
        self.process.kill()
        return (
            f"the process that read it gave no answer in {self.patience:g} s; the machine may be "
            "too busy: try again later"
        )
