"""Tests that take minutes: faults at random moments, in great number."""
