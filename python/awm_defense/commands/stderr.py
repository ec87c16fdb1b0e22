"""Standard error, on which nothing but progress and errors stands: no work is lost for it."""

import io
import os
from contextlib import suppress
from typing import Self, TextIO


class Dropping(io.TextIOWrapper):
    """A stream that drops what it can't write, on a full disk or where no one reads any more."""

    @classmethod
    def in_place_of(cls, stream: TextIO | None) -> Self:
        """The same stream, but dropping; without one (it is closed) all is dropped."""
        if stream is None:  # `print` would take standard output instead
            return cls(open(os.devnull, "wb"), encoding="utf-8")
        return cls(
            stream.buffer, encoding=stream.encoding, errors=stream.errors, line_buffering=True
        )

    def write(self, text: str) -> int:
        """As of every stream."""
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """As of every stream."""
        with suppress(OSError):
            super().flush()
