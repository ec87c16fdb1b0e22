"""Text from a file, made fit to be shown in a message."""

from awm_defense.portions import is_of_memory

# Characters of a name that a message shows, and of a path.
NAME, PATH = 80, 400


def escape(text: str) -> str:
    """The text with what can't be printed as Python writes it in a string; else a hostile name
    could clear the screen or pass for another message."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text
    )


def shown(text: object, longest: int = NAME) -> str:
    """The text on one line: no terminal escapes, no line breaks, and cut where it is long."""
    line = str(text)
    safe = escape(line[:longest])
    if len(line) <= longest and len(safe) <= longest:
        return safe
    return f"{safe[:longest]}… ({len(line)} characters)"


def sentence(error: BaseException) -> str:
    """The first line of an error, or its type where it says nothing; of memory in plain words."""
    if is_of_memory(error):
        return "memory ran out"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return shown(lines[0], PATH)
