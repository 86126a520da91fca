#!/usr/bin/env bash
# A training step on the CPU: dense attention, NAtS at random types, NAtS at sparse types, and PyTorch's dense
# step where `$PYTHON -c 'import torch'` works. Same shapes, same threads, one after the other.
#   THREADS=2 STEPS=20 PYTHON=python3 bash benchmarks/cpu_train_step.sh [PROGRAM]
# Nothing else should run on the machine. The lines on standard error name the BLAS kernels in use.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=${1:-$root/build/release/natsformer}
threads=${THREADS:-2} steps=${STEPS:-20} python=${PYTHON:-python3}
[ -x "$program" ] || {
  echo "no program at $program: build it with cmake --preset release && cmake --build --preset release" >&2
  exit 1
}

ours=$("$program" bench train "threads=$threads" --steps "$steps" --json)
theirs='{}'
if "$python" -c 'import torch' 2>/dev/null; then
  theirs=$("$python" "$root/benchmarks/peers/torch_train_step.py" --threads "$threads" --steps "$steps")
else
  echo "without PyTorch: $python cannot import torch" >&2
fi

# rows JSON PREFIX: NAME, MILLISECONDS and KV fraction, a line each; the objects are flat and ours.
rows() {
  grep -oE '"[a-z]+": \{[^}]*\}' <<<"$1" |
    sed -nE "s/\"([a-z]+)\": \{\"step_ms\": ([0-9.]+)[^}]*\}/$2\1 \2/p"
}
{ rows "$ours" 'natsformer-' && rows "$theirs" 'pytorch-'; } | awk '
  NR == 1 { dense = $2; printf "%-20s %12s %18s\n", "step of", "ms", "against our dense" }
  { printf "%-20s %12.1f %18.2f\n", $1, $2, $2 / dense }'
