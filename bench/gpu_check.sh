#!/usr/bin/env bash
# Everything that needs a GPU, in one command: GPU tests, GPU benchmarks, JSON in $OUT.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${OUT:-build/gpu}"
mkdir -p "$out"
out="$(cd "$out" && pwd)"
export PYTHONUNBUFFERED=1
python -m pip install --no-build-isolation --no-deps -e .
python -m awm_kernels
python -m pytest -m gpu
cd bench
python -m pytest -o python_files='bench_*.py' -o python_functions='bench_*' \
  --benchmark-json="$out/bench.json" .
