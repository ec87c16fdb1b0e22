"""Looks for a backdoor: search for triggers, their margins and growth, and the verdict."""
