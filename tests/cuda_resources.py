"""Print what each CUDA kernel of the last build takes, and fail if one spills registers.

Needs no GPU. Usage: python -m tests.cuda_resources
"""

from __future__ import annotations

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
    table = BUILD / "cuda_resources.txt"
    if not table.exists():
        print(f"{table} is missing: build the CUDA kernels first (AWM_CUDA=on)", file=sys.stderr)
        return 1
    print(table.read_text())
    rows = [line.rsplit(maxsplit=4) for line in table.read_text().splitlines()[1:]]
    missing = [name for name in KERNELS if not any(name in row[0] for row in rows)]
    spilling = [row for row in rows if int(row[-1])]
    print(f"{len(rows)} compiled kernels, {len(spilling)} with spills")
    if missing:
        print(f"no report on {', '.join(missing)}", file=sys.stderr)
    return 1 if spilling or missing else 0


if __name__ == "__main__":
    sys.exit(main())
