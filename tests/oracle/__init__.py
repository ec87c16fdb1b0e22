"""The method once more, in plain PyTorch: short, readable, slow. The library is compared with it.

Read `algorithm` first: a recipe from the first epoch to the last. `examination` looks for a
backdoor before it, and `families` has the sorts of triggers that both look for.

Every forward pass multiplies masks and weights anew, BatchNorm stays where it is, and triggers are
sought one at a time. Of the library only its recipes and its random draws of images are used, so
that both see the same batches. Networks take pixels in [0, 1]; float64 makes comparisons sharp.
"""
