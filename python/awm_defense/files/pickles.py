"""Pickles, read by a child process (`pickle_child`): none is ever read in this one."""

import contextlib
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Literal

from awm_defense.files.door import MIB
from awm_defense.files.json_file import parse_object
from awm_defense.files.text import PATH, shown

PROGRAM = Path(__file__).with_name("pickle_child.py")
# Seconds that a child may live; its own limit is on the time that it computes.
PATIENCE = 9.0
TEXT_LIMIT = 64 * MIB
# Three lists for each of the levels that the child allows, and some around them.
ANSWER_DEPTH = 110
PAYLOAD_LIMIT = 256 * MIB


def read_pickle(
    kind: Literal["zip", "legacy", "batch"], content: bytes | bytearray
) -> tuple[dict[str, Any], bytes]:
    """What a pickle describes.

    Args:
        kind: what to expect; see `pickle_child`, which also says what comes back.
        content: the pickle.

    Returns:
        The answer, and the pixels of a batch. Both come from a process that read hostile data, so
        check them like a file.

    Raises:
        ValueError: when the pickle holds anything but plain data, is broken, or takes too much
            memory or time.
        OSError: when no process can be started.
    """
    # Isolated and without site-packages, so that nothing else of this environment is run there.
    command = [sys.executable, "-I", "-S", str(PROGRAM), kind]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        clock = threading.Timer(PATIENCE, child.kill)
        clock.start()
        try:
            # A child that has been killed takes no more; its exit code says why.
            with contextlib.suppress(BrokenPipeError):
                try:
                    child.stdin.write(content)
                finally:
                    child.stdin.close()
            head = child.stdout.read(8)
            length = int.from_bytes(head, "little")
            text = child.stdout.read(min(length, TEXT_LIMIT))
            payload = child.stdout.read(PAYLOAD_LIMIT)
            code = child.wait()
        finally:
            clock.cancel()
            child.kill()
    if code:
        reason = f"took too long (signal {-code})" if code < 0 else f"ended with code {code}"
        raise ValueError(f"the process that read it {reason}")
    try:
        found = parse_object(text, finite=False, depth=ANSWER_DEPTH)
    except ValueError as error:
        raise ValueError(f"the process that read it gave no answer: {error}") from error
    if "error" in found:
        raise ValueError(shown(found["error"], PATH))
    return found, payload
