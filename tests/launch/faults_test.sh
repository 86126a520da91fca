#!/usr/bin/env bash
# What goes wrong on a cluster, and that training survives it: each fault ends with a clear message, the exit code
# that is documented, and nothing that was learned is lost.
#   bash tests/launch/faults_test.sh PROGRAM NAME [CLOCK]
set -uo pipefail
name=$2
clock=${3:-}
# shellcheck source=tests/launch/train_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/train_lib.sh"

# mounted COMMAND...: with file systems of its own, in a shell of its own. Skips where nobody may mount.
may_mount() {
  if ! unshare -rm true 2>/dev/null; then
    echo "$name: skipped: no name spaces for mounts here"
    exit 77
  fi
}

# in_mounts 'MOUNT COMMANDS' RANKS SETTINGS...: `train` where these file systems are mounted.
in_mounts() {
  start unshare -rm bash -c "$1"'
    exec bash "$@"' _ "$tests/ranks.sh" "$2" "$program" train "$work/config.yaml" "${@:3}"
  finish
}

case $name in
# A rank that hangs for good: the others say which and where, and the run goes on from its checkpoint.
hang)
  NATSFORMER_FAULT=hangs:17 train 2 dist.deadline=3
  [ "$status" -ne 0 ] || fail 'exit code 0 although a rank hangs'
  expect_line 'error: rank 0 of 2: .* did not complete within 3 s in step 17 (training): waiting for rank 1 (last heard of [0-9]* s ago: '
  train 2
  expect_status 0
  expect_line 'continuing at step 1[05] ' # the last one may not have been written to its end
  field step "$work/run" | awk '$1 != NR { exit 1 } END { exit NR != 20 }' || fail 'metrics.jsonl has gaps or doubles'
  ;;

# Who is slow is in the metrics, on the line of progress, and in the report.
straggler)
  NATSFORMER_FAULT=slow:1-100 train 3
  expect_status 0
  expect_line 'step 20/20 .*% waiting for rank [012]'
  expect_line 'waiting  .*% of the time of 3 ranks, for rank 2 in [0-9]*% of the steps'
  # Most of the time: a busy machine may hold up another one for longer now and then.
  [ "$(field slowest_rank "$work/run" | grep -c '^2$')" -gt 10 ] || fail 'another rank is said to be slow'
  field imbalance "$work/run" | awk '!($1 >= 0 && $1 < 1) { exit 1 }' || fail 'an imbalance outside of 0 to 1'
  ;;

# One bad batch is left out on all ranks, and a start in the middle decides as the run that went through.
spikes)
  settings=(train.steps=40 train.skip_spikes=2 checkpoint.keep=10)
  for ranks in 1 2; do
    NATSFORMER_FAULT=loss:18-19 train $ranks run="$work/$ranks" "${settings[@]}"
    expect_status 0
    expect_line 'warning: step 18: the loss of [0-9.]* is [0-9.]* times the median of the last steps: left out'
    expect_line 'skipped  *2 steps'
    [ "$(field skipped "$work/$ranks" | sed -n '17p;18p;19p;40p' | tr '\n' ' ')" = '0 1 2 2 ' ] ||
      fail 'other steps were left out'
  done
  cp -r "$work/2" "$work/again"
  rm -r "$work"/again/checkpoints/step-0000000[234]*
  NATSFORMER_FAULT=loss:18-19 train 2 run="$work/again" "${settings[@]}"
  expect_line 'continuing at step 15'
  same_metrics "$work/2" "$work/again"
  NATSFORMER_FAULT=loss:18-19 train 2 run="$work/off" train.steps=40
  expect_no_line 'skipped'
  # A loss that stays high is accepted before it ends the run.
  NATSFORMER_FAULT=loss:18-40 train 2 run="$work/higher" "${settings[@]}" train.max_skipped=3
  expect_status 0
  expect_line 'warning: step 20: the loss of [0-9.]* is [0-9.]* times the .*: it stays high and is accepted'
  expect_line 'skipped  *2 steps'
  NATSFORMER_FAULT=gradient:18-25 train 2 run="$work/lost" "${settings[@]}" train.max_skipped=3
  expect_status 1
  expect_line 'error: step 20: the gradient was not finite, or the loss too high, in 3 steps in a row'
  train 0 train.skip_spikes=0.5
  expect_status 2
  expect_line 'train.skip_spikes: expected 0 (none) or a factor above 1, found 0.5'
  ;;

# A disk that is full costs checkpoints and warnings, and the last one's failure is the run's; with room again the
# run goes on.
full_disk)
  may_mount
  train 2 run="$work/whole"
  expect_status 0
  train 2 train.steps=10
  expect_status 0
  cp -r "$work/run" "$work/kept"
  rm -r "$work/run"
  cp -r "$work/kept" "$work/run"
  kib=$(du -sk "$work/run/checkpoints" | cut -f 1)
  in_mounts "mount -t tmpfs -o size=$((kib + 100))k none '$work/run/checkpoints' &&
    cp -r '$work/kept/checkpoints/.' '$work/run/checkpoints/'" 2 train.steps=20
  expect_status 1
  expect_line "continuing at step 10"
  expect_line "warning: the checkpoint of step 15 was not written; training goes on: .*a checkpoint needs .* MiB, the disk has .* MiB left"
  expect_line "error: $work/run: the last checkpoint, of step 20, could not be written; start again to continue"
  train 2 train.steps=20
  expect_status 0
  expect_line 'continuing at step 10'
  [ "$(steps "$work/run")" -eq 20 ] || fail 'steps are missing'
  ;;

# The same for a folder that cannot be written: a file system that went read-only, as they do after an error.
read_only)
  may_mount
  train 2 train.steps=10
  expect_status 0
  in_mounts "mount --bind '$work/run/checkpoints' '$work/run/checkpoints' &&
    mount -o remount,bind,ro '$work/run/checkpoints'" 2 train.steps=20
  expect_status 1
  expect_line 'continuing at step 10'
  expect_line 'warning: the checkpoint of step 15 was not written; training goes on: .*Read-only file system'
  expect_line "error: $work/run: the last checkpoint, of step 20, could not be written"
  train 2 train.steps=20
  expect_status 0
  expect_line 'continuing at step 10'
  ;;

# Data that vanish on the way: the message names shard and rank, and the steps made so far are saved.
shards)
  "$program" data build --tokenizer byte --out "$work/data" --val 0.2 --shard-mib 0.001 --force "${texts[@]}" \
    >"$log" 2>&1 || fail 'no data set'
  mv "$work/data/train-00001.h5" "$work/shard"
  train 2
  expect_status 1
  expect_line "error: $work/data/train-00001.h5: the manifest names this shard, but it cannot be found: .*, rank [01])"
  [ ! -e "$work/run/checkpoints" ] || fail 'a checkpoint although nothing was trained'
  mv "$work/shard" "$work/data/train-00001.h5"

  settings=(train.steps=500 train.batch=2 eval.every=0 checkpoint.every=1000)
  train 2 run="$work/whole" "${settings[@]}"
  expect_status 0
  mkdir "$work/away"
  begin 2 run="$work/run" "${settings[@]}" # with fewer samples a step than shards: some are opened late
  wait_for_step "$work/run" 1
  mv "$work"/data/train-0*.h5 "$work/away/"
  finish
  if [ "$status" -eq 0 ]; then
    echo "$name: all shards were open already"
  else
    expect_status 1
    expect_line "error: $work/data/train-[0-9]*.h5: .*, rank [01])"
    expect_line 'is the last one before a failure: saving it'
  fi
  reached=$(steps "$work/run")
  mv "$work"/away/*.h5 "$work/data/"
  train 2 run="$work/run" "${settings[@]}"
  expect_status 0
  expect_line "continuing at step $reached "
  same_metrics "$work/whole" "$work/run"
  ;;

# Nothing that is measured, waited for or learned depends on the time of day.
clock)
  # shellcheck disable=SC2016
  LD_PRELOAD=$clock bash -c 'for _ in {1..40}; do echo "$EPOCHSECONDS"; done' | sort -n |
    awk 'NR == 1 { first = $1 } END { exit $1 - first < 1e7 }' || fail "$clock does not set the clock"
  train 2 run="$work/whole"
  expect_status 0
  LD_PRELOAD=$clock train 2 dist.deadline=60
  expect_status 0
  same_metrics "$work/whole" "$work/run"
  field seconds "$work/run" | awk '!($1 >= last && $1 < 600) { exit 1 } { last = $1 }' || fail 'seconds that are none'
  field tokens_per_s "$work/run" | awk '!($1 > 0) { exit 1 }' || fail 'rates that are none'
  ;;
*) fail 'unknown' ;;
esac
echo "$name: passed"
