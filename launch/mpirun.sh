#!/usr/bin/env bash
# Runs a command on the ranks of a cluster without Slurm, or of this machine, and passes signals on, so that a run
# that is asked to stop can write its checkpoint first.
#   bash launch/mpirun.sh HOSTFILE COMMAND...   a rank for each slot: lines as in `node1 slots=8`
#   bash launch/mpirun.sh RANKS COMMAND...      on this machine, as launch/ranks.sh
# Environment: OMP_NUM_THREADS, threads of each rank (default: the cores of a machine shared by its ranks), and
# what launch/slurm/site.conf sets. The folder of the project has to be the same on all machines.
#
# USR1, TERM or Ctrl-C once: every rank stops at the same step, saves, and the whole exits with 75. Again, three
# seconds later or more (Ctrl-C: at any time): all end at once.
set -uo pipefail
# shellcheck source=launch/ranks.sh
. "$(dirname "${BASH_SOURCE[0]}")/ranks.sh"

natsformer_hosts() {
  local hostfile=$1 launcher=() name
  natsformer_watch
  natsformer_site
  natsformer_modules
  [ -z "${OMP_NUM_THREADS:-}" ] || export OPENBLAS_NUM_THREADS=$OMP_NUM_THREADS
  natsformer_root_allowed
  site_mpirun+=(--hostfile "$hostfile")
  natsformer_mpirun "${OMP_NUM_THREADS:-0}"
  # Processes on other machines get a bare environment.
  for name in PATH LD_LIBRARY_PATH OMP_NUM_THREADS OPENBLAS_NUM_THREADS NCCL_SOCKET_IFNAME; do
    [ -z "${!name:-}" ] || launcher+=(-x "$name")
  done
  launcher+=(-x NATSFORMER_STARTED)
  natsformer_supervise "${launcher[@]}" "${@:2}"
}

[ $# -ge 2 ] || natsformer_fail 'usage: bash launch/mpirun.sh HOSTFILE|RANKS COMMAND...'
if [ -f "$1" ]; then
  natsformer_hosts "$@"
elif [[ $1 =~ ^[0-9]+$ ]]; then
  natsformer_ranks "$@"
else
  natsformer_fail "expected a number of ranks or a file of hosts, found '$1'"
fi
