#!/usr/bin/env bash
# The batch scripts under a real Slurm, which this test starts and ends: what a person relies on who submits a job
# and goes home.
#   bash tests/launch/slurm_test.sh PROGRAM [fast|limit]
# Not run here: GPUs. train-gpu.sbatch runs with pretended ones and computes on the CPU.
set -uo pipefail
name=slurm
# shellcheck source=tests/launch/train_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/train_lib.sh"
# shellcheck source=tests/launch/slurm_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/slurm_lib.sh"

export NATSFORMER=$program OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export NATSFORMER_SITE=$work/site.conf
scripts=launch/slurm
one_node=(--nodes=1 --ntasks-per-node=2 --cpus-per-task=1 --time=5)
two_nodes=(--nodes=2 --ntasks-per-node=1 --cpus-per-task=1)
long=(train.steps=90 train.length=64 eval.every=30 checkpoint.every=20 log.every=30)

# The nodes are one machine: MPI must not think that they share memory, nor bind to cores that both count.
cat >"$NATSFORMER_SITE" <<'END'
site_partition=debug
site_sbatch=(--comment=tested)
site_mpirun=(--bind-to none)
export OMPI_MCA_btl=self,tcp
[ "${SLURM_ARRAY_TASK_ID:-}" != 0 ] || unset NATSFORMER_FAULT # of an array one task is disturbed
END
start_slurm

say() {
  echo "$name: $1 ($SECONDS s)"
}

# preempt TASK: signals the job as Slurm does before it takes the nodes away, and lets it start again. However fast it
# is: with this fault it waits for that in a step.
waits=waits:40
preempt() {
  wait_for_job_line 'step 40: waiting to be asked to stop'
  scancel --signal=USR1 --batch "$1"
  wait_for_job COMPLETED
  expect_line 'stopped after step 40 '
  expect_line 'the training exited with 75'
  expect_line 'restart 1:'
  expect_line 'continuing at step 40 '
  scontrol show job "$1" | grep -q 'Restarts=1 ' || fail "not one restart: $(scontrol show job "$1")"
}

fast() {
  # Runs beside the others, until its own clock stops it 12 s after its start, without any signal.
  submit --nodes=1 --ntasks-per-node=1 --cpus-per-task=1 --time=1 $scripts/train.sbatch "$work/config.yaml" \
    run="$work/clock" "${long[@]}" train.steps=1000000 train.stop_before=0.8
  local clock_job=$job clock_log=$log

  # srun, nobody disturbs it: what the other runs are compared with.
  submit "${one_node[@]}" $scripts/train.sbatch "$work/config.yaml" run="$work/whole" "${long[@]}"
  scontrol show job "$job" | grep -q 'Comment=tested' || fail 'the options of the site did not arrive'
  wait_for_job COMPLETED
  expect_line 'srun --mpi=pmix'
  expect_line 'ranks 0-1, .* 1 thread each; CPU'
  expect_line 'Open MPI v.*HDF5 '
  say 'srun'

  # mpirun, preempted: it saves, exits with 75, is requeued, resumes, and nobody could tell from its metrics.
  LAUNCHER=mpirun NATSFORMER_FAULT=$waits submit "${one_node[@]}" $scripts/train.sbatch "$work/config.yaml" \
    run="$work/mpirun" "${long[@]}"
  preempt "$job"
  expect_line ' mpirun -q'
  same_metrics "$work/whole" "$work/mpirun"
  say 'mpirun, preempted'

  # Two nodes.
  NATSFORMER_FAULT=$waits submit "${two_nodes[@]}" $scripts/train.sbatch "$work/config.yaml" run="$work/nodes" "${long[@]}"
  preempt "$job"
  expect_line 'job [0-9]* on n\[1-2\], restart 1: srun'
  same_metrics "$work/whole" "$work/nodes"
  say 'two nodes, preempted'

  # A sweep: each task its value and its folder, and each is requeued by itself.
  NATSFORMER_FAULT=$waits submit --array=0-1 --nodes=1 --ntasks-per-node=1 --cpus-per-task=1 $scripts/sweep.sbatch \
    nats.lambda=0,0.2 "$work/config.yaml" run="$work/sweep" "${long[@]}"
  preempt "${job}_1"
  [ "$(grep -c 'restart 1:' "$log")" -eq 1 ] || fail 'a task that nobody signalled was started again'
  for value in 0 0.2; do
    [ "$(steps "$work/sweep/nats.lambda-$value")" -eq 90 ] || fail "the run of $value is not complete"
    field lambda "$work/sweep/nats.lambda-$value" | tail -n 1 |
      awk -v value="$value" '{ exit !($1 - value < 1e-6 && value - $1 < 1e-6) }' || fail "not the lambda $value"
  done
  say 'array'

  # The GPU script: its resources, with which the CPU computes.
  submit --gpus-per-node=2 "${one_node[@]}" $scripts/train-gpu.sbatch "$work/config.yaml" run="$work/gpu" device=cpu
  wait_for_job COMPLETED
  [ "$(steps "$work/gpu")" -eq 20 ] || fail 'the run of the GPU script is not complete'
  say 'GPU script on the CPU'

  # scancel. The checkpoint takes its time, is completed, and nothing is requeued. mpirun's helpers on the nodes end
  # its ranks when scancel signals everything: there the script alone is signalled.
  for launcher in srun mpirun; do
    LAUNCHER=$launcher NATSFORMER_FAULT=checkpoint-slow:150 submit "${one_node[@]}" $scripts/train.sbatch \
      "$work/config.yaml" run="$work/$launcher-ended" "${long[@]}" train.steps=1000000 checkpoint.every=0
    wait_for_job_step "$work/$launcher-ended" 20
    if [ $launcher = srun ]; then
      scancel "$job"
      wait_for_job CANCELLED
    else
      scancel --signal=TERM --batch "$job"
      wait_for_job FAILED # with exit code 75
      expect_line 'the training exited with 75'
    fi
    expect_line 'stopped after step'
    expect_no_line 'restart 1'
    saved=$(sed -nE 's/.*stopped after step ([0-9]+) .*/\1/p' "$log")
    [ -e "$work/$launcher-ended/checkpoints/step-$(printf '%09d' "$saved")/manifest.json" ] || fail 'nothing saved'
    say "scancel, $launcher"
  done

  # A rank is killed. Slurm ends the others, which would wait for it until their deadline of ten minutes.
  NATSFORMER_FAULT=dies:15 submit "${two_nodes[@]}" $scripts/train.sbatch "$work/config.yaml" run="$work/dead" "${long[@]}"
  wait_for_job FAILED
  expect_line 'the training exited with 137'
  say 'a rank is killed'

  # A mistake is not requeued.
  submit "${one_node[@]}" $scripts/train.sbatch "$work/config.yaml" model.widht=3
  wait_for_job FAILED
  expect_line "did you mean 'model.width'"
  expect_line 'the training exited with 2'
  say 'mistake'

  # A job that has to stop before its first step would start for ever.
  submit "${one_node[@]}" $scripts/train.sbatch "$work/config.yaml" \
    run="$work/short" "${long[@]}" train.time_limit=0.0001
  wait_for_job FAILED
  expect_line 'not requeued: asked to stop before the first step: give it more --time'
  expect_no_line 'restart 1'
  say 'a job too short'

  job=$clock_job log=$clock_log
  for _ in $(seq 300); do
    ! grep -q 'exited with' "$log" || break
    sleep 0.1
  done
  expect_line 'saving and stopping in'
  expect_line 'stopped after step'
  expect_line 'the training exited with 75'
  for _ in $(seq 100); do
    [ "$(job_state)" != 'PENDING ' ] || break
    sleep 0.1
  done
  [ "$(job_state)" = 'PENDING ' ] || fail "the job is $(job_state), not back in the queue"
  say 'stopped by the clock'
}

# The wall-clock limit as Slurm itself signals it, up to a minute early: takes a minute and more.
slow() {
  LAUNCHER=mpirun submit --time=2 --signal=B:USR1@60 "${one_node[@]:0:3}" $scripts/train.sbatch "$work/config.yaml" \
    run="$work/limit" train.steps=100000000 log.every=100000 checkpoint.every=0 eval.every=0
  for _ in $(seq 150); do
    ! grep -q 'exited with' "$log" 2>/dev/null || break
    sleep 1
  done
  expect_line 'stopped after step'
  expect_line 'the training exited with 75'
  sleep 3
  start_queued
  wait_for_job_step "$work/limit" "$(($(steps "$work/limit") + 10))"
  expect_line 'continuing at step'
  say 'wall-clock limit'
}

case ${2:-fast} in
fast) fast ;;
limit) slow ;;
*) fail 'usage: slurm_test.sh PROGRAM [fast|limit]' ;;
esac
echo "$name: passed"
