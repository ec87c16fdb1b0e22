"""The tables and figures of the AWM paper, measured anew: a grid of cells, each kept in a file."""
