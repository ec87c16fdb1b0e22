"""The limits that a process sets itself before it reads what a stranger made.

A child runs this file by its path: it must start fast, and imports no package.
"""

import resource
import sys


def set_limits(memory: int, seconds: int, files: int = 0) -> None:
    """Limit this process, which can write no file then, and start no other (but root's can).

    Args:
        memory: bytes of its address space.
        seconds: of computing, from now on; the next call counts anew.
        files: open at a time.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    done = int(used.ru_utime + used.ru_stime) + 1
    limits = (
        ("RLIMIT_AS", memory, memory),
        ("RLIMIT_CPU", done + seconds, resource.RLIM_INFINITY),
        ("RLIMIT_FSIZE", 0, 0),
        ("RLIMIT_CORE", 0, 0),
        ("RLIMIT_NPROC", 0, 0),
        ("RLIMIT_NOFILE", files, files),
    )
    for name, soft, hard in limits:
        if not hasattr(resource, name):
            continue
        kind = getattr(resource, name)
        _, highest = resource.getrlimit(kind)
        if highest != resource.RLIM_INFINITY:
            hard = highest if hard == resource.RLIM_INFINITY else min(hard, highest)
            soft = min(soft, highest)
        try:
            resource.setrlimit(kind, (soft, hard))
        except (ValueError, OSError):  # macOS limits no address space
            if sys.platform == "linux":
                raise
