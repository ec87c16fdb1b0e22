"""Python imports this when it starts, in every process that has this folder on its PYTHONPATH.

Appends a line of JSON to the file `WATCHED_LOG` for each event that could leave the process, with
its arguments: sockets, programs, files and folders that are written, made, renamed or removed.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Where each of these names its paths, and the open folders that those are relative to.
PATHS: dict[str, tuple[tuple[int, int], ...]] = {
    **dict.fromkeys(("os.remove", "os.rmdir", "os.chown"), ((0, -1),)),
    **dict.fromkeys(("os.mkdir", "os.chmod"), ((0, 2),)),
    **dict.fromkeys(("os.rename", "os.link"), ((0, 2), (1, 3))),
    **dict.fromkeys(("os.symlink",), ((1, 2),)),
    **dict.fromkeys(("os.truncate",), ((0, 0),)),
}
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork")
LOG = os.open(os.environ["WATCHED_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _path(name: Any, folder: Any) -> str:
    """The whole path of a name that may be relative to an open folder, or be an open file."""
    if isinstance(name, int):
        return os.readlink(f"/proc/self/fd/{name}")
    beside = f"/proc/self/fd/{folder}" if isinstance(folder, int) and folder >= 0 else os.curdir
    return os.path.join(os.path.realpath(beside), os.fsdecode(name))


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, int) or not flags & WRITES:  # a file that is open already
            return
        told = [_path(path, -1)]
    elif event in PATHS:
        told = [_path(arguments[name], arguments[folder]) for name, folder in PATHS[event]]
    elif event in PROGRAMS or event.startswith("socket."):
        told = [str(argument) for argument in arguments]
    else:
        return
    os.write(LOG, (json.dumps([event, *told]) + "\n").encode())


sys.addaudithook(_hook)
