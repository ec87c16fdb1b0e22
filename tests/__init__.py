"""Tests of both packages; nothing in them is installed."""
