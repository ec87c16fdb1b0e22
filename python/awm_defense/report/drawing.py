"""matplotlib, which would write its caches to the home folder and obey settings that lie about."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


@contextmanager
def default_settings() -> Iterator[None]:
    """Meanwhile matplotlib draws by its defaults, whatever a `matplotlibrc` or the caller has set.

    Also a decorator, of what draws with the functions below.
    """
    # Not at the top: whoever draws nothing need not wait for it.
    with _imported_apart():
        import matplotlib
    with matplotlib.rc_context(dict.copy(matplotlib.rcParamsDefault)):
        yield


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of that size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def at_whole_numbers(axis: "Axis", most: int = 10) -> None:
    """Have ticks at whole numbers only, at most so many intervals between them."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=most, integer=True))


def drawn(figure: "Figure", dpi: int) -> bytes:
    """A figure as a PNG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


@contextmanager
def _imported_apart() -> Iterator[None]:
    """Meanwhile matplotlib can be imported: it looks for settings and writes caches, once.

    The first `matplotlibrc` that it looks for is in the current folder, where a stranger's can lie:
    it may have LaTeX started, or be no file at all. So that is a temporary folder with an empty
    one. Caches go there, too, unless the user has chosen a folder for them.
    """
    if "matplotlib" in sys.modules:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="awm-") as folder:
        Path(folder, "matplotlibrc").touch()
        chosen = os.environ.get("MPLCONFIGDIR", folder)
        apart = {"MPLBACKEND": "agg", "MPLCONFIGDIR": os.path.abspath(chosen)}
        before = {name: os.environ.get(name) for name in apart}
        os.environ.update(apart)
        try:
            with chdir(folder):
                import matplotlib.figure  # noqa: F401 - with it what asks for the folder of caches

                yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
