"""Tests of the defense."""
