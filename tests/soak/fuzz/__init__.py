"""Inputs made by chance and by what they reach in the code, for everything that reads files."""
