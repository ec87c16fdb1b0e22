"""Benchmarks on a GPU against the ceilings of the same run: `python -m bench.gpu PART --out FILE`.

Without a GPU the same code runs on tiny sizes, so that it can't rot; its figures mean nothing then.
"""
