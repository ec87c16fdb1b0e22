"""What a command says when it fails: one line, and an exit code."""

import errno

from awm_defense.commands import GONE
from awm_defense.files.text import escape
from awm_defense.portions import is_of_memory

WRONG, UNEXPECTED = 2, 70
"""Exit codes: of wrong input, and of what nobody has foreseen (EX_SOFTWARE of sysexits.h)."""
# How much of a message is shown, of its start and its end: what came stands last. The longest list
# of what is expected fits in.
START, END = 450, 150
MEMORY = (
    "out of memory: smaller batches need less (purify: --set batch_size=N, train: --batch-size N), "
    "and so do fewer or smaller images"
)


def explain(error: Exception) -> tuple[str, int]:
    """The line that says what is wrong, and the exit code."""
    text = str(error).strip()
    if of_memory(error):
        return MEMORY, WRONG
    if of_output(error):
        return f"standard output: {text}", WRONG
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return shorten(escape(f"{error.filename}: {error.strerror}")), WRONG
    if isinstance(error, FileNotFoundError) and error.errno and error.filename is None:
        return GONE, WRONG  # of no file: a path was to be made a whole one
    if isinstance(error, RuntimeError | ImportError):
        # Those of PyTorch run over many lines; the first says what is wrong.
        text = next(iter(text.splitlines()), "")
    text = escape(text) or type(error).__name__
    foreseen = (ValueError, OSError, ImportError, RuntimeError)
    if isinstance(error, foreseen) and not isinstance(error, RecursionError | NotImplementedError):
        return shorten(text), WRONG
    what = f"unexpected {type(error).__name__}: {shorten(text)}"
    return f"{what} (--debug shows where; please report it)", UNEXPECTED


def shorten(text: str, start: int = START, end: int = END) -> str:
    """A long text without its middle."""
    return text if len(text) <= start + end else f"{text[:start]} … {text[-end:]}"


def of_output(error: Exception) -> bool:
    """Whether standard output can't be written; an error of a file names the file."""
    full = (errno.ENOSPC, errno.EIO, errno.EFBIG)
    return isinstance(error, OSError) and error.filename is None and error.errno in full


def of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out."""
    return is_of_memory(error) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
