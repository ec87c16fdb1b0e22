"""The process that tries inputs until it has found something or its time is up.

Its arguments are those of libFuzzer; AWM_FUZZ_FOLDER is a folder for the file that is read.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import atheris

# How much of these an input runs is what makes it interesting.
with atheris.instrument_imports(include=["awm_defense", "zipfile", "json", "csv"]):
    from tests.soak.fuzz.reading import check, ignore_checksums, prepare, stay_inside


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    folder = Path(os.environ["AWM_FUZZ_FOLDER"])
    warnings.simplefilter("ignore")  # of data sets that are not the official ones
    prepare(folder)
    ignore_checksums()
    stay_inside()
    atheris.Setup(sys.argv, lambda data: check(data, folder))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
