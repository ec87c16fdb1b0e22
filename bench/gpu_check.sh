#!/usr/bin/env bash
# Everything that needs a GPU in one command, under 8 minutes: build, GPU tests, benchmarks.
# Writes results.json and log.txt to $OUT (default build/gpu). A part that fails or runs out of time
# is a row in results.json, and the others still run. Without a GPU the benchmarks run on tiny sizes.
#
#   --no-install        use the package as it is installed, or this folder
#   PYTHON=python3.12   the Python to run with
set -uo pipefail
cd "$(dirname "$0")/.."
out="${OUT:-build/gpu}"
mkdir -p "$out"
out="$(cd "$out" && pwd)"
parts="$(mktemp -d)"
trap 'rm -rf "$parts"' EXIT
python="${PYTHON:-python3}"
deadline=465
# So that what doesn't need the build works where that fails.
export PYTHONPATH="$PWD:$PWD/python${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
: >"$out/log.txt"

part() { # NAME SECONDS COMMAND...
  local name="$1" limit="$2" begin="$SECONDS" status
  shift 2
  if ((limit > deadline - SECONDS)); then limit=$((deadline - SECONDS)); fi
  if ((limit < 1)); then
    status=124
  else
    echo "== $name" | tee -a "$out/log.txt"
    timeout --kill-after=5 "$limit" "$@" >"$parts/log" 2>&1
    status=$?
    cat "$parts/log" >>"$out/log.txt"
    tail -n 12 "$parts/log"
  fi
  printf '%s\t%s\t%s\n' "$name" "$status" "$((SECONDS - begin))" >>"$parts/parts.tsv"
}

if [[ "${1:-}" != --no-install ]]; then
  part install 120 "$python" -m pip install --no-build-isolation --no-deps -e .
fi
part diagnostics 30 "$python" -m awm_kernels
for name in ceilings flat trigger; do
  part "$name" 30 "$python" -m bench.gpu "$name" --out "$parts/$name.json"
done
# Three at a time: the largest tests take up to 40 GiB each.
workers=()
if "$python" -c 'import xdist' 2>/dev/null; then workers=(-n 3); fi
part tests 150 "$python" -m pytest -q -m gpu -p no:cacheprovider "${workers[@]}" \
  --junit-xml="$parts/tests.xml" tests/test_gpu.py
part purify 90 "$python" -m bench.gpu purify --out "$parts/purify.json"
part convolutions 200 "$python" -m bench.gpu convolutions --out "$parts/convolutions.json"
"$python" -m bench.gpu.results collect "$parts" "$out/results.json"
"$python" -m bench.gpu.results show "$out/results.json"
