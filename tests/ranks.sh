#!/usr/bin/env bash
# Runs a command on N ranks of this machine, for tests: more ranks than cores are allowed, and root is (in a
# container). Scripts for users do neither.
#   bash tests/ranks.sh N COMMAND...
set -euo pipefail
ranks=$1
shift
if [ "$(id -u)" = 0 ]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-1}
# MPI libraries keep memory until the process ends; that is no leak of ours.
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
exec mpirun -q --oversubscribe --bind-to none -np "$ranks" "$@"
