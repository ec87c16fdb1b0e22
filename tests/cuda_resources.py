"""Print what each CUDA kernel of the last build takes, and fail if one spills registers.

Needs no GPU. Usage: python tests/cuda_resources.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

BUILD = Path(__file__).resolve().parent.parent / "build" / f"ninja-{sys.implementation.cache_tag}"
KERNELS = (
    "grad_norm_kernel",
    "mask_step_kernel",
    "masked_weight_kernel",
    "perturb_backward_kernel",
    "perturb_kernel",
    "row_kernel",
    "sum_kernel",
)


def main() -> int:
    table = BUILD / "cuda_resources.json"
    if not table.exists():
        print(f"{table} is missing: build the CUDA kernels first (AWM_CUDA=on)", file=sys.stderr)
        return 1
    rows = json.loads(table.read_text())
    print(f"{'kernel':52} {'for':8} {'registers':>9} {'shared':>7} {'spilled':>8}")
    for row in rows:
        print("{kernel:52} {arch:8} {registers:9} {shared:7} {spilled:8}".format(**row))
    names = {row["kernel"].split("<")[0] for row in rows}
    missing = [name for name in KERNELS if not any(name in found for found in names)]
    spilling = [row for row in rows if row["spilled"]]
    print(f"{len(rows)} variants of {len(names)} kernels, {len(spilling)} with spills")
    if missing:
        print(f"no report on {', '.join(missing)}", file=sys.stderr)
    return 1 if spilling or missing else 0


if __name__ == "__main__":
    sys.exit(main())
