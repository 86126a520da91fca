# The body of all batch scripts in this folder. To be sourced:
#   natsformer_job CONFIG.yaml [key.path=value ...]                   trains, and requeues the job if it was stopped
#   natsformer_sweep_job KEY=VALUE,VALUE... CONFIG.yaml run=DIR ...   the same with the value of this array task
# Both end the script. Environment, besides launch/slurm/site.conf: NATSFORMER, the program (default
# build/release/natsformer, then the one in PATH); LAUNCHER, srun or mpirun.
# shellcheck shell=bash
# shellcheck source=launch/cluster.sh
. "$(dirname "${BASH_SOURCE[0]}")/../cluster.sh"

# Of an array one task: its own number, in SLURM_JOB_ID, may be that of the whole array.
natsformer_job_id() {
  if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
    echo "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
  else
    echo "$SLURM_JOB_ID"
  fi
}

# For train.stop_before. Older Slurms do not say in the environment when a job ends.
natsformer_job_end() {
  local at
  [ -z "${SLURM_JOB_END_TIME:-}" ] || return 0
  at=$(squeue -h -j "$(natsformer_job_id)" -o %e 2>/dev/null) && at=$(date -d "$at" +%s 2>/dev/null) || return 0
  export SLURM_JOB_END_TIME=$at
}

# Whether the next start would do no more than this one, which made no step: the job is shorter than what is kept
# back for saving. Without a signal the program's own clock ended it; Slurm's comes within the first minute then.
natsformer_job_too_short() {
  local left=$((${SLURM_JOB_END_TIME:-0} - $(date +%s)))
  [ "$natsformer_steps" = 0 ] || return 1
  [ -n "$natsformer_signal" ] || return 0
  [ "$natsformer_asked_at" -lt 90 ] && [ "$left" -gt 0 ] && [ "$left" -lt 1800 ] &&
    ! scontrol show job "$(natsformer_job_id)" 2>/dev/null | grep -q 'PreemptTime=[0-9]'
}

# Sets `launcher`.
natsformer_job_launcher() {
  local threads=${SLURM_CPUS_PER_TASK:-0}
  if [ "$threads" -gt 0 ]; then # else the ranks of a node share the cores that they may use
    export OMP_NUM_THREADS=$threads OPENBLAS_NUM_THREADS=$threads
  fi
  # All tasks of a node see all its GPUs and take that of their local rank, so that NCCL can copy between them.
  [ -z "${SLURM_JOB_GPUS:-}${SLURM_GPUS_ON_NODE:-}" ] || export SLURM_GPU_BIND=none
  case ${LAUNCHER:=$site_launcher} in
  srun)
    # Ranks whose neighbour has died would wait for it until their deadline.
    launcher=(srun --mpi=pmix --kill-on-bad-exit=1 "${site_srun[@]}")
    [ "$threads" -eq 0 ] || launcher+=(--cpus-per-task="$threads") # srun does not take it from sbatch
    ;;
  mpirun) natsformer_mpirun "$threads" ;;
  *) natsformer_fail "LAUNCHER: expected srun or mpirun, found '$LAUNCHER'" ;;
  esac
}

natsformer_job() {
  local program status launcher=()
  natsformer_watch
  if [ $# -lt 1 ]; then
    natsformer_say 'usage: sbatch launch/slurm/SCRIPT CONFIG.yaml [key.path=value ...]'
    exit 2
  fi
  natsformer_site
  natsformer_modules
  program=$(natsformer_program) || exit 1
  natsformer_job_end
  natsformer_job_launcher
  echo "$(date '+%F %T') job $(natsformer_job_id) on $SLURM_JOB_NODELIST, restart ${SLURM_RESTART_COUNT:-0}: ${launcher[*]}"
  natsformer_supervise "${launcher[@]}" "$program" train "$@"
  status=$?
  echo "$(date '+%F %T') the training exited with $status"
  # TERM is scancel: it was stopped for good.
  if [ "$status" -eq 75 ] && [ "$natsformer_signal" != TERM ]; then
    if natsformer_job_too_short; then
      natsformer_say "not requeued: asked to stop before the first step: give it more --time, or less --signal or train.stop_before"
      exit 2
    fi
    scontrol requeue "$(natsformer_job_id)"
  fi
  exit "$status"
}

natsformer_sweep_job() {
  local key=${1%%=*} values=() value run='' argument
  if [ $# -lt 2 ] || [ "$key" = "$1" ]; then
    natsformer_say 'usage: sbatch --array=0-N launch/slurm/sweep.sbatch KEY=VALUE,VALUE... CONFIG.yaml run=DIR ...'
    exit 2
  fi
  IFS=, read -ra values <<<"${1#*=}"
  value=${values[${SLURM_ARRAY_TASK_ID:-0}]:-}
  if [ -z "$value" ]; then
    natsformer_say "array task ${SLURM_ARRAY_TASK_ID:-0}: $key has ${#values[@]} values: --array=0-$((${#values[@]} - 1))"
    exit 2
  fi
  for argument in "$@"; do
    case $argument in run=?*) run=${argument#run=} ;; esac
  done
  if [ -z "$run" ]; then
    natsformer_say 'sweep: expected run=DIR, the folder for the runs of all values'
    exit 2
  fi
  natsformer_job "${@:2}" run="$run/$key-$value" "$key=$value"
}
