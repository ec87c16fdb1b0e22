"""`python -m tests.hostile`: read every file of the corpus and count what became of them."""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

from tests.hostile.case import run_case
from tests.hostile.corpus import all_cases, table


def main() -> None:
    """Print the table, and on standard error the slowest file."""
    warnings.simplefilter("ignore")  # of data sets that are not the official ones
    outcomes = {}
    for case in all_cases():
        with tempfile.TemporaryDirectory() as folder:
            outcomes[case] = run_case(case, Path(folder))
    print(table(outcomes))
    slowest = max(outcomes, key=lambda case: outcomes[case].seconds)
    largest = max(outcomes, key=lambda case: outcomes[case].memory)
    print(
        f"slowest: {slowest.name}, {outcomes[slowest].seconds:.1f} s; most memory here: "
        f"{largest.name}, {outcomes[largest].memory / 2**20:.0f} MiB",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
