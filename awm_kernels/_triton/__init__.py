"""Triton kernels, one module an op. Importing any of them needs triton."""
