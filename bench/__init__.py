"""Benchmarks of the kernels and the defense, and what they measured: see README.md."""
