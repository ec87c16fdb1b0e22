"""matplotlib, which would write its caches to the home folder."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of that size in inches."""
    # Not at the top: whoever draws nothing need not wait for it.
    with _caches_elsewhere():
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained")


def at_whole_numbers(axis: "Axis", most: int = 10) -> None:
    """Have ticks at whole numbers only, at most so many intervals between them."""
    with _caches_elsewhere():
        from matplotlib.ticker import MaxNLocator
    axis.set_major_locator(MaxNLocator(nbins=most, integer=True))


def drawn(figure: "Figure", dpi: int) -> bytes:
    """A figure as a PNG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


@contextmanager
def _caches_elsewhere() -> Iterator[None]:
    """Meanwhile matplotlib's folder is a temporary one, unless the user has chosen one.

    It writes when it is imported, and never again. What has imported it before has done so.
    """
    if "MPLCONFIGDIR" in os.environ or "matplotlib" in sys.modules:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="awm-") as folder:
        os.environ["MPLCONFIGDIR"] = folder
        try:
            yield
        finally:
            del os.environ["MPLCONFIGDIR"]
