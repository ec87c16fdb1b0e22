"""`python -m awm_kernels [--json]`: diagnostics of this installation."""

from __future__ import annotations

import argparse
import json

from awm_kernels._diagnostics import as_text, diagnostics


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m awm_kernels",
        description="Print what is built here, which backends work, and how to get the others.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    arguments = parser.parse_args()
    found = diagnostics()
    print(json.dumps(found, indent=2) if arguments.json else as_text(found))


if __name__ == "__main__":
    main()
