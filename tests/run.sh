#!/usr/bin/env bash
# Installs what is missing, builds, and runs the tests.
#   bash tests/run.sh          all tests of the release build, then the unit tests under two sanitizers, and the
#                              CUDA kernels on an emulated GPU (tests/emulator), under both
#   bash tests/run.sh --long   also the long ones: soak, kill and comparison runs
# Where nvcc is found the release build has the CUDA code too, and where a GPU is visible its tests run there;
# each build says which it is. The other builds are for the CPU.
# Ends with 0 only when everything passed. A single test: ctest --test-dir build/release -R NAME.
set -uo pipefail
# shellcheck source=launch/install.sh
. "$(dirname "${BASH_SOURCE[0]}")/../launch/install.sh"

long=no
case "$#:${1:-}" in
0:) ;;
1:--long) long=yes ;;
*) natsformer_fail 'usage: bash tests/run.sh [--long]' ;;
esac

# The tests set their own numbers of threads and ranks.
unset OMP_NUM_THREADS OPENBLAS_NUM_THREADS OMP_PROC_BIND OMP_PLACES
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}

summary=()
failed=no

# tests_of PRESET CTEST-OPTIONS...: shows CTest's output and keeps its closing line for the summary.
tests_of() {
  local preset=$1 log
  shift
  log=$(mktemp)
  # Ranks mostly wait, for mpirun or each other: twice as many as there are cores.
  ctest --test-dir "$natsformer_root/build/$preset" --output-on-failure -j "$((2 * $(natsformer_cores)))" "$@" 2>&1 |
    tee "$log"
  [ "${PIPESTATUS[0]}" -eq 0 ] || failed=yes
  summary+=("$preset: $(grep 'tests passed' "$log" || echo 'no test ran')")
  grep -q 'tests passed' "$log" || failed=yes
  rm -f "$log"
}

natsformer_install tests
natsformer_cuda=AUTO # compiled wherever nvcc is, GPU or not
natsformer_build release ON
tests_of release -LE long
natsformer_cuda=
natsformer_build asan-ubsan ON unit_tests
tests_of asan-ubsan -L unit -LE long
natsformer_build emulated ON device_tests
tests_of emulated -L device -LE long
if [ "$long" = yes ]; then
  tests_of release -L long -j 1
fi

echo
printf '%s\n' "${summary[@]}"
if [ "$failed" = yes ]; then
  echo "tests/run.sh: FAILED after $SECONDS s"
  exit 1
fi
echo "tests/run.sh: passed in $SECONDS s"
