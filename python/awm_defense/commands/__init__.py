"""One module per command, each with `add_parser(commands)` and `run(args) -> exit code`."""

GONE = "the current folder: it is gone, or can't be entered; go to another one first"
"""What an error says where paths can't be told from the current folder."""
