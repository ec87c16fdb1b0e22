"""python -m bench.gpu PART --out FILE: one part of the benchmarks, rows as JSON."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.gpu import ceilings, convolutions, flat, purify, trigger
from bench.gpu.setting import write

PARTS = {
    "ceilings": ceilings.rows,
    "flat": flat.rows,
    "trigger": trigger.rows,
    "purify": purify.rows,
    "convolutions": convolutions.rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    write(PARTS[arguments.part](), arguments.out)


if __name__ == "__main__":
    main()
