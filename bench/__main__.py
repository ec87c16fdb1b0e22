"""`python -m bench`: every benchmark in one run, as JSON Lines and one table."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.networks import find_networks
from bench.run import CEILING, as_markdown, collect, write

HERE = Path(__file__).parent


class Keeper:
    """A pytest plugin that keeps what pytest-benchmark measured."""

    def __init__(self) -> None:
        self.benchmarks: list[Any] = []

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        kept = session.config._benchmarksession  # type: ignore[attr-defined]
        self.benchmarks = list(kept.benchmarks)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("build/bench"), help="writes OUT.jsonl, OUT.md"
    )
    parser.add_argument("-k", default="", metavar="EXPRESSION", help="only these, as in pytest")
    parser.add_argument(
        "--epochs",
        type=int,
        choices=range(1, 21),
        default=1,
        metavar="N",
        help="of a purification's 20; each costs the same",
    )
    parser.add_argument(
        "--networks",
        type=Path,
        metavar="DIR",
        help="also purify the backdoored networks in the folders of DIR; needs AWM_DATA_DIR",
    )
    arguments = parser.parse_args()
    if arguments.networks:
        try:
            find_networks(arguments.networks)
        except ValueError as error:
            parser.error(str(error))
        os.environ["AWM_BENCH_NETWORKS"] = str(arguments.networks.resolve())
    os.environ["AWM_BENCH_EPOCHS"] = str(arguments.epochs)
    keeper = Keeper()
    pattern = ["-o", "python_files=bench_*.py", "-o", "python_functions=bench_*"]
    # Shares need the ceilings of the same run.
    chosen = f"({arguments.k}) or bench_ceilings" if arguments.k else ""
    status = pytest.main(
        [*pattern, "-q", "-rs", "--benchmark-quiet", "-k", chosen, str(HERE)], plugins=[keeper]
    )
    found = collect(keeper.benchmarks)
    if all(row["group"].startswith(CEILING) for row in found["rows"]):
        print(f"nothing but the ceilings was measured: -k {arguments.k!r}", file=sys.stderr)
        return int(status) or 1
    write(arguments.out, found, as_markdown(found))
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
