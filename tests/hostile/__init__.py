"""Broken and hostile files, each with the sentence that it is refused with."""
