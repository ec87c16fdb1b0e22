"""Pickles, read by a child process (`pickle_child`): none is ever read in this one."""

from pathlib import Path
from typing import Any, Literal

from awm_defense.files.child import PATIENCE, Child
from awm_defense.files.door import MIB
from awm_defense.files.json_file import parse_object
from awm_defense.files.text import PATH, shown

PROGRAM = Path(__file__).with_name("pickle_child.py")
TEXT_LIMIT = 64 * MIB
# Three lists for each of the levels that the child allows, and some around them.
ANSWER_DEPTH = 110


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
    with Child(PROGRAM, kind, patience=PATIENCE) as child:
        child.ask(content, last=True)
        length, more = (int.from_bytes(child.read(8), "little") for _ in range(2))
        if length > TEXT_LIMIT or more > len(content):
            raise ValueError("the process that read it gave no answer: it is too long")
        text, payload = child.read(length), child.read(more)
    try:
        found = parse_object(text, finite=False, depth=ANSWER_DEPTH)
    except ValueError as error:
        raise ValueError(f"the process that read it gave no answer: {error}") from error
    if "error" in found:
        raise ValueError(shown(found["error"], PATH))
    return found, payload
