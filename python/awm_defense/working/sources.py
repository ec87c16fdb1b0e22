"""The source text of modules that torch.fx generates, which it keeps for as long as Python runs."""

import linecache
from collections.abc import Iterator
from contextlib import contextmanager

from torch.fx import graph_module

GENERATED = "<eval_with_key>"
"""What the names begin with under which it is kept."""


@contextmanager
def forget_sources() -> Iterator[None]:
    """Afterwards the source of what was generated meanwhile is gone.

    The modules work on without. It only serves tracebacks, and a process that purifies network
    after network would grow by several texts and more objects with each.
    """
    before = _names()
    try:
        yield
    finally:
        # Private, so it may go with another torch.
        texts = getattr(getattr(graph_module, "_loader", None), "eval_cache", {})
        for name in _names() - before:
            linecache.cache.pop(name, None)
            texts.pop(name, None)


def _names() -> set[str]:
    return {name for name in list(linecache.cache) if name.startswith(GENERATED)}
