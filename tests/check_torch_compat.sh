#!/bin/sh
# Runs the tests of kernels and ops in another torch environment, on the libraries as they are built
# here: nothing is compiled or installed. That environment needs torch, numpy and pytest.
#
#   tests/check_torch_compat.sh PYTHON      for example: ../torch214/bin/python
set -eu
if [ $# -ne 1 ]; then
    echo "usage: $0 PYTHON (the interpreter of an environment with another torch)" >&2
    exit 2
fi
python=$(command -v "$1") || { echo "$0: no such interpreter: $1" >&2; exit 2; }
case $python in /*) ;; *) python=$PWD/$python ;; esac
cd "$(dirname "$0")/.."
if [ ! -f awm_kernels/lib/libawm_cpu.so ]; then
    echo "$0: awm_kernels/lib/libawm_cpu.so is missing: build it first" >&2
    exit 2
fi
export PYTHONPATH="$PWD"
"$python" -c 'import torch; print("torch", torch.__version__)'
exec "$python" -m pytest -q -p no:cacheprovider tests/test_cpu_kernels.py tests/test_ops.py \
    tests/test_masked_*.py tests/test_mask_step.py tests/test_l1_*.py tests/test_perturb.py \
    tests/test_trigger_step.py tests/test_cuda_library.py
