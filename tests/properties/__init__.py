"""Properties that hold for every input: a right answer, or one line that names what is wrong."""
