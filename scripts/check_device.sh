#!/usr/bin/env bash
# Check and measure dinojax on a machine with an accelerator, in less than six minutes.
#
#   bash scripts/check_device.sh [--wheels DIR] [--rehearse] [--text FILE] [--only PART .. --] OUT.json
#
# It needs Python 3.11 or newer with JAX for the device, optax, NumPy, tqdm, filelock, regex and
# pytest, and no network; PyTorch is measured beside dinojax where it is installed. Nothing is
# installed into that Python: wheels of packages that it lacks, such as rapidfuzz, may be given in a
# folder. OUT.json is written after each part, so that what was found outlives a time limit.
#
#   PYTHON      the Python to use (default: python3)
#   --wheels    a folder of wheels that this Python lacks
#   --only      the parts to run, of: doctor tests train sample score bench text-best (sample and score
#               need train)
#   --text      a text for text-best, to compare its loss; otherwise only its time says something
#   --rehearse  little of everything, to see on any machine that all of it runs (two minutes)
#
# The environment reaches all parts, so that settings of XLA can be compared:
#
#   XLA_FLAGS=--xla_gpu_enable_command_buffer=+WHILE bash scripts/check_device.sh --only bench -- OUT.json
#
# Tests use products of full float32, since their tolerances are for these
# (JAX_DEFAULT_MATMUL_PRECISION=highest). Training and the bench use the default of JAX, which on
# recent NVIDIA GPUs is TF32, as does PyTorch's cuDNN.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$root:$root/scripts:$root/tests${PYTHONPATH:+:$PYTHONPATH}"
if [[ ${1:-} == --wheels ]]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "${2:?}"/*.whl
  export PYTHONPATH="$site:$PYTHONPATH"
  shift 2
fi
"$python" "$root/scripts/check_device.py" "$@"
