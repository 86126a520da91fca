#!/usr/bin/env bash
# Runs one Criterion test on N ranks and makes sure that every rank ran exactly this one and passed it: a
# filter that matches nothing would exit 0, and under MPI only the first test of a process can start MPI.
#   bash tests/one_test.sh N PROGRAM suite/test
set -uo pipefail
ranks=$1 program=$2 filter=$3

log=$(mktemp)
trap 'rm -f "$log"' EXIT
bash "$(dirname "$0")/ranks.sh" "$ranks" "$program" -j1 --color=never --filter "$filter" >"$log" 2>&1
status=$?
cat "$log"

passed=$(grep -c 'Synthesis: Tested: 1 | Passing: 1 | Failing: 0 | Crashing: 0' "$log")
if [ "$status" -ne 0 ]; then
  echo "$filter on $ranks ranks: mpirun exited with $status"
  exit 1
fi
if [ "$passed" -ne "$ranks" ]; then
  echo "$filter: $passed of $ranks ranks ran exactly one test and passed it"
  exit 1
fi
echo "$filter: passed on $ranks ranks"
