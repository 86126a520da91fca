#!/usr/bin/env bash
# Ending a run before its end: at any moment, for good or for a while.
#   bash tests/launch/stop_test.sh PROGRAM NAME
set -uo pipefail
name=$2
# shellcheck source=tests/launch/train_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/train_lib.sh"

# Whether the script that runs in the background catches USR1.
has_traps() {
  local caught
  caught=$(sed -n 's/SigCgt:[[:space:]]*//p' "/proc/$started/status" 2>/dev/null)
  [ $((0x${caught:-0} & 0x200)) -ne 0 ]
}

case $name in
# An evaluation may take longer than the notice that a job gets. It is left between two batches, and made up for
# when the run goes on: in the end nobody can tell, neither from the metrics nor from the best checkpoint.
evaluation)
  settings=(train.steps=10 eval.every=5 train.micro_batch=1) # four batches a rank
  train 2 run="$work/whole" "${settings[@]}"
  expect_status 0
  for step in 5 10; do # the last one ends the run
    NATSFORMER_FAULT=waits-evaluation:$step begin 2 run="$work/parts" "${settings[@]}"
    wait_for_line "step $step: waiting to be asked to stop"
    kill -USR1 "$started"
    finish
    expect_status 75
    expect_line "step $step: asked to stop; the next start evaluates it"
    [ "$(steps "$work/parts")" -eq "$step" ] || fail "$(steps "$work/parts") steps instead of $step"
  done
  train 2 run="$work/parts" "${settings[@]}"
  expect_status 0
  expect_line 'step 10: evaluating it first'
  expect_line 'val_loss'
  same_metrics "$work/whole" "$work/parts"
  for step in 05 10; do
    manifest=checkpoints/step-0000000$step/manifest.json
    grep -q '"loss": [0-9]' "$work/parts/$manifest" || fail "the checkpoint of step $step does not know its loss"
  done
  ;;

# Warm-up of the types, of the learning rate and of lambda are where they were.
warm_up)
  settings=(train.steps=40 nats.type_warmup=0.5 optimizer.warmup=20 eval.every=20 checkpoint.every=20)
  train 2 run="$work/whole" "${settings[@]}"
  expect_status 0
  stop 7 2 run="$work/parts" "${settings[@]}"
  train 2 run="$work/parts" "${settings[@]}"
  expect_status 0
  same_metrics "$work/whole" "$work/parts"
  ;;

# A second signal does not wait for a checkpoint, and the exit code does not ask to be requeued. What was being
# written counts for nothing. Signals that come together are one.
second)
  NATSFORMER_FAULT=checkpoint-slow:20000 begin 2 train.steps=1000000 eval.every=0 checkpoint.every=0
  wait_for_step "$work/run" 10
  rank=$(pgrep -n -P "$started")
  kill -TERM "$rank"
  wait_for_line 'SIGTERM: stopping at the next step'
  kill -USR1 "$rank"
  sleep 3.5 # signals are not taken for one any more
  kill -0 "$started" 2>/dev/null || fail 'two signals at once ended the run before its checkpoint was written'
  kill -USR1 "$started"
  finish
  case $status in 0 | 75) fail "exit code $status" ;; esac
  expect_line 'asked to stop again: leaving at once, nothing more is saved'
  [ -z "$(ls "$work"/run/checkpoints/step-*/manifest.json 2>/dev/null)" ] || fail 'a checkpoint counts'
  train 0 train.steps=20
  expect_status 0
  expect_no_line 'continuing'
  ;;

# The time is up: as by a signal.
time_limit)
  settings=(train.steps=1000000 eval.every=0 checkpoint.every=0)
  for minutes in 0.01 0.1 0.5; do # however slow the machine is: until the time was enough for a step
    train 2 "${settings[@]}" train.time_limit=$minutes
    expect_status 75
    expect_line 'saving and stopping in'
    at=$(steps "$work/run")
    [ "$at" -eq 0 ] || break
  done
  train 0 "${settings[@]}" train.time_limit=0.01
  expect_status 75
  expect_line "continuing at step $at "
  # The end of a Slurm job, by the clock of the first rank.
  SLURM_JOB_END_TIME=$(($(date +%s) + 61)) train 2 run="$work/run" "${settings[@]}" train.stop_before=1
  case $status in 75 | 2) ;; *) fail "exit code $status" ;; esac # 2 where it took a second to come so far
  SLURM_JOB_END_TIME=$(($(date +%s) + 50)) train 2 run="$work/run" "${settings[@]}" train.stop_before=1
  expect_status 2
  expect_line 'error: train.stop_before: the job ends in [0-9]* s, and is to stop 1 min 00 s before: give it more time'
  SLURM_JOB_END_TIME=1000000000 train 0 run="$work/clock" train.stop_before=1
  expect_status 0
  expect_line "train.stop_before has no effect: SLURM_JOB_END_TIME is '1000000000'"
  train 0 run="$work/none" train.stop_before=1
  expect_status 0
  expect_line 'train.stop_before has no effect: SLURM_JOB_END_TIME is not set'
  ;;

# launch/mpirun.sh, on the machine itself and by a list of machines: TERM saves first, also where a batch system
# sends it to mpirun as well; and what ran is said.
mpirun)
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  echo 'localhost slots=2' >"$work/hosts"
  for where in 1 "$work/hosts"; do
    rm -rf "$work/run"
    start bash "$root/launch/mpirun.sh" "$where" "$program" train "$work/config.yaml" train.steps=1000000 \
      eval.every=0 checkpoint.every=0
    wait_for_step "$work/run" 10
    pkill -TERM -x mpirun -P "$started" || fail 'no mpirun to signal'
    kill -TERM "$started"
    finish
    expect_status 75
    expect_line 'stopped after step'
    expect_line 'natsformer [0-9.]*, .*MPI.*, HDF5 [0-9.]*, '
    expect_line ': ranks\? 0.* cores 0.* 1 thread.*; CPU'
  done
  bash "$root/launch/mpirun.sh" "$work/nowhere" true >"$log" 2>&1 && fail 'a list of machines that is not there'
  expect_line "expected a number of ranks or a file of hosts, found '$work/nowhere'"
  ;;

# A signal while a run starts, before anything is there that could save: it stops with 75 all the same, sooner or
# later, and is neither lost nor the end of mpirun.
starting)
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  echo 'localhost slots=1' >"$work/hosts"
  for case in '1 USR1 0.05' '1 TERM 0.25' "$work/hosts USR1 0.25" "$work/hosts TERM 0.05"; do
    read -r where signal delay <<<"$case"
    rm -rf "$work/run"
    start bash "$root/launch/mpirun.sh" "$where" "$program" train "$work/config.yaml" train.steps=1000000 \
      eval.every=0 checkpoint.every=0
    wait_until 'the traps of the script' has_traps
    sleep "$delay"
    kill -"$signal" "$started"
    finish
    expect_status 75
    expect_line 'stopped after step\|before the start: not starting'
  done
  ;;
*) fail 'unknown' ;;
esac
echo "$name: passed"
