#!/usr/bin/env bash
# Runs a command on several MPI ranks of this machine and passes signals on, so that a run that is asked to
# stop can write its checkpoint first.
#   bash launch/ranks.sh RANKS COMMAND...
# Sourced, it gives the function natsformer_ranks. Environment: OMP_NUM_THREADS, threads of each rank (default:
# the cores shared by the ranks).
#
# USR1, TERM or Ctrl-C once: every rank stops at the same step, saves, and the whole exits with 75.
# (mpirun itself would answer TERM and Ctrl-C by killing the ranks within a second.) Ctrl-C twice: ends at once.
# shellcheck source=launch/cluster.sh
. "$(dirname "${BASH_SOURCE[0]}")/cluster.sh"

natsformer_root_allowed() {
  if [ "$(id -u)" = 0 ] && [ -z "${OMPI_ALLOW_RUN_AS_ROOT_CONFIRM:-}" ]; then
    natsformer_say "running as root: setting OMPI_ALLOW_RUN_AS_ROOT and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM for mpirun"
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
}

natsformer_ranks() {
  local ranks=$1 cores threads
  natsformer_watch
  shift
  # Open MPI counts whole cores unless told to count hardware threads, and refuses more ranks than that.
  local launcher=(mpirun -q -np "$ranks" --use-hwthread-cpus --bind-to none)
  [[ $ranks =~ ^[1-9][0-9]{0,5}$ ]] || natsformer_fail "expected a number of ranks, found '$ranks'"
  cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
  if [ "$ranks" -gt "$cores" ]; then
    natsformer_fail "$ranks ranks need as many cores, and this process may use $cores"
  fi
  cores=$(natsformer_cores)
  threads=${OMP_NUM_THREADS:-$((cores > ranks ? cores / ranks : 1))}
  natsformer_say "$ranks ranks x $threads threads on $cores cores"
  if [ $((ranks * threads)) -gt "$cores" ]; then
    natsformer_say "warning: more threads than cores: expect it to be slow"
  fi
  natsformer_root_allowed
  natsformer_supervise env OMP_NUM_THREADS="$threads" OPENBLAS_NUM_THREADS="$threads" "${launcher[@]}" "$@"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  [ $# -ge 2 ] || natsformer_fail 'usage: bash launch/ranks.sh RANKS COMMAND...'
  natsformer_ranks "$@"
fi
