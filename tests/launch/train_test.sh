#!/usr/bin/env bash
# Whole training runs: what a person relies on who starts, stops, kills and continues them.
#   bash tests/launch/train_test.sh PROGRAM NAME
set -uo pipefail
name=$2
# shellcheck source=tests/launch/train_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/train_lib.sh"

# Several evaluations and checkpoints, and the end of the warm-up of types.
long=(train.steps=60 eval.every=15 checkpoint.every=10)

# finish_killed: as finish, for what was killed at any moment. mpirun itself (4.1.4) can wait for ever in its clean-up
# when a rank died while it was connecting, before any line of ours has run: then it is ended from here.
finish_killed() {
  local end=$((SECONDS + limit)) last=$SECONDS
  while kill -0 "$started" 2>/dev/null; do
    [ -z "$(pgrep -r D,R,S,T -P "$started")" ] || last=$SECONDS
    [ $((SECONDS - last)) -lt 10 ] || kill -9 "$started"
    [ $SECONDS -lt $end ] || give_up "a rank is left $limit s after another one was killed"
    nap 0.1
  done
  wait "$started"
  status=$?
  started=''
}

# disturb RUN STEPS: kills or stops a rank so many steps from now, not before there are ranks; counted in `kills`.
disturb() {
  local until_step=$(($(steps "$1") + $2)) signals=(KILL STOP) end=$((SECONDS + limit)) ranks
  while ! has_steps "$1" $until_step && kill -0 "$started" 2>/dev/null; do
    [ $SECONDS -lt $end ] || give_up "no step within $limit s"
    nap 0.02
  done
  mapfile -t ranks < <(pgrep -P "$started")
  [ "${#ranks[@]}" -gt 0 ] || return 0
  kill -"${signals[RANDOM % 2]}" "${ranks[RANDOM % ${#ranks[@]}]}" 2>/dev/null && kills=$((kills + 1))
}

case $name in
# Otherwise an experiment on 3 ranks would tell something else than on 1.
ranks)
  for ranks in 1 2 3; do
    train $ranks run="$work/$ranks" nats.type_warmup=0
    expect_status 0
  done
  [ "$(field kv_fraction "$work/1" | head -n 1)" != 1 ] || fail 'no types were drawn'
  for ranks in 2 3; do
    close_to loss 1e-4 "$work/1" "$work/$ranks"
    close_to val_loss 1e-4 "$work/1" "$work/$ranks"
    diff <(field tokens "$work/1") <(field tokens "$work/$ranks") >"$log" || fail 'other numbers of tokens'
    # The types drawn in the first step are those of one rank, all of them.
    [ "$(field kv_fraction "$work/1" | head -n 1)" = "$(field kv_fraction "$work/$ranks" | head -n 1)" ] ||
      fail 'other types in the first step'
  done
  ;;

# How a batch is cut into passes must not matter: otherwise memory decides about results.
passes)
  train 0 run="$work/one" train.micro_batch=12
  train 0 run="$work/many" train.micro_batch=5
  expect_status 0
  close_to loss 1e-4 "$work/one" "$work/many"
  close_to grad_norm 1e-3 "$work/one" "$work/many"
  close_to kv_fraction 0.01 "$work/one" "$work/many"
  ;;

# Labelled documents, shorter than a sample: means are over the tokens of all ranks, not means of means.
labelled)
  "$program" data synth mqar --out "$work/recall" --samples 200 --val-samples 16 --length 48 --vocab 64 \
    --window 8 --pairs 4 --queries 4 >"$log" 2>&1 || fail 'no recall task'
  for ranks in 1 3; do
    train $ranks run="$work/$ranks" data.path="$work/recall" data.sample=document train.length=64
    expect_status 0
  done
  close_to loss 1e-4 "$work/1" "$work/3"
  close_to accuracy 0.05 "$work/1" "$work/3"
  close_to val_accuracy 0.1 "$work/1" "$work/3"
  [ "$(field tokens "$work/1" | head -n 1)" -eq $((12 * 48)) ] || fail 'padding counts as tokens'
  ;;

# A run that was stopped and continued is the run that was not, to the last bit of its parameters.
resume)
  settings=("${long[@]}" nats.kv_target=0.5 nats.kv_eta=0.1) # lambda has a state of its own then
  train 2 run="$work/whole" "${settings[@]}"
  expect_status 0
  stop 23 2 run="$work/parts" "${settings[@]}"
  train 2 run="$work/parts" "${settings[@]}"
  expect_status 0
  expect_line 'continuing at step 23 '
  same_metrics "$work/whole" "$work/parts"
  for part in "$work/whole"/checkpoints/step-000000060/part-*.h5; do
    cmp "$part" "$work/parts/checkpoints/step-000000060/${part##*/}" || fail 'other parameters or moments'
  done
  ;;

# What a run has learned can be the beginning of another: with token types where it had none, on other ranks.
from)
  train 2 run="$work/dense" model.attention=dense
  expect_status 0
  # A step that changes nothing: the scorer, which the dense run lacks, still keeps every token.
  next=(run="$work/next" train.from="$work/dense" optimizer.lr=1e-12 optimizer.lr_min=0)
  train 0 train.steps=1 "${next[@]}"
  expect_status 0
  expect_line "beginning with the weights of $work/dense/checkpoints/step-000000020"
  paste <(field val_loss "$work/dense" | tail -n 1) <(field val_loss "$work/next" | head -n 1) >"$log"
  awk '{ off = $1 - $2 } END { exit !(NF == 2 && off < 1e-5 && off > -1e-5) }' "$log" || fail 'another loss'
  train 2 train.steps=2 "${next[@]}" # goes on with its own, once it has any
  expect_status 0
  expect_line 'continuing at step 1 '
  expect_no_line 'beginning with'
  ;;

# A job that gets fewer or more nodes the next time sees the same samples in the same order.
other_ranks)
  train 2 run="$work/whole" "${long[@]}"
  stop 17 2 run="$work/parts" "${long[@]}"
  train 3 run="$work/parts" "${long[@]}"
  expect_status 0
  expect_line 'continuing at step 17 '
  diff <(field tokens "$work/whole") <(field tokens "$work/parts") >"$log" || fail 'other numbers of tokens'
  [ "$(steps "$work/parts")" -eq 60 ] || fail "$(steps "$work/parts") lines instead of 60"
  close_to loss 0.02 "$work/whole" "$work/parts" # rounding grows with the steps; another sample would show at once
  ;;

# kill -9 of one rank ends the others, and nothing but the steps since the last checkpoint is lost.
kill)
  NATSFORMER_FAULT=dies:35 begin 2 "${long[@]}"
  finish_killed
  [ "$status" -ne 0 ] || fail 'exit code 0 although a rank was killed'
  train 2 "${long[@]}"
  expect_status 0
  expect_line 'continuing at step [23]0 ' # the last one may not have been written to its end
  field step "$work/run" | awk '$1 != NR { exit 1 } END { exit NR != 60 }' || fail 'metrics.jsonl has gaps or doubles'
  ;;

# The same at many moments, also while a checkpoint is written, and with ranks that stand still instead of dying: in
# the end the run is the one that nobody disturbed.
kill_often | kill_few)
  if [ "$name" = kill_few ]; then enough=5 steps_apart=20; else enough=50 steps_apart=30; fi
  settings=(train.steps=$((steps_apart * (enough + 2))) eval.every=50 checkpoint.every=10 checkpoint.keep=2
    log.every=500)
  train 2 run="$work/whole" "${settings[@]}"
  expect_status 0
  short=(dist.deadline=2 dist.deadline_evaluation=2 dist.deadline_checkpoint=2)
  kills=0
  largest=0
  for _ in $(seq 300); do
    # Half of them while checkpoints are written, which then takes most of the time.
    fault=''
    [ $((RANDOM % 2)) -eq 0 ] || fault=checkpoint-slow:2
    if [ $kills -ge $enough ]; then # enough: to the end
      train 2 run="$work/run" "${settings[@]}"
    else
      NATSFORMER_FAULT=$fault begin 2 run="$work/run" "${settings[@]}" "${short[@]}"
      disturb "$work/run" $((1 + RANDOM % (2 * steps_apart)))
      finish_killed
    fi
    expect_no_line 'none of the .* checkpoints verifies'
    folders=$(find "$work/run/checkpoints" -mindepth 1 -maxdepth 1 2>/dev/null | wc -l)
    [ "$folders" -le "$largest" ] || largest=$folders
    [ "$status" -eq 0 ] || continue
    same_metrics "$work/whole" "$work/run"
    [ "$kills" -lt "$enough" ] || break
    rm -r "$work/run" # it was quicker than the killing: once more from the start
  done
  expect_status 0
  [ "$kills" -ge "$enough" ] || fail "only $kills kills"
  # Two that are kept, the best one, one that is being written and one that is being removed.
  [ "$largest" -le 5 ] || fail "up to $largest folders of checkpoints: leftovers pile up"
  [ -z "$(find "$work/run" -name '*.partial' -o -name '*.tmp')" ] || fail 'leftovers at the end'
  echo "$kills kills, at most $largest folders"
  ;;

# Two runs in one folder would ruin each other's checkpoints.
locked)
  begin 1 run="$work/run" "${long[@]}" train.steps=1000000
  wait_for_step "$work/run" 2
  first=$started
  log=$work/second train 2
  log=$work/second expect_status 2
  log=$work/second expect_line 'is using this run folder'
  started=$first
  kill -USR1 "$started"
  finish
  expect_status 75
  ;;

# One bad batch must not end a run of weeks, and must leave all ranks with the same parameters.
skip)
  for ranks in 1 2; do
    NATSFORMER_FAULT=gradient:4-5 train $ranks run="$work/$ranks"
    expect_status 0
    expect_line 'skipped .* 2 steps'
    [ "$(field grad_norm "$work/$ranks" | sed -n 4,5p | tr '\n' ' ')" = 'null null ' ] ||
      fail 'no sign of the steps in the metrics'
  done
  close_to val_loss 1e-4 "$work/1" "$work/2"
  NATSFORMER_FAULT=gradient:3-100 train 2 train.max_skipped=4
  expect_status 1
  expect_line 'error: step 6: the gradient was not finite in 4 steps in a row (train.max_skipped)'
  # What was being saved when it failed is not lost.
  NATSFORMER_FAULT=gradient:6-100,checkpoint-slow:20 train 2 run="$work/slow" train.max_skipped=1
  expect_status 1
  [ -e "$work/slow/checkpoints/step-000000005/manifest.json" ] || fail 'the checkpoint of step 5 was dropped'
  ;;

# A full disk costs a checkpoint and a warning, not the run.
disk)
  NATSFORMER_FAULT=checkpoint-pwrite:3 train 0
  expect_status 0
  expect_line 'warning: the checkpoint of step 5 was not written'
  [ ! -e "$work/run/checkpoints/step-000000005" ] || fail 'half a checkpoint'
  [ -e "$work/run/checkpoints/step-000000020/manifest.json" ] || fail 'no checkpoint at the end'
  ;;

# A checkpoint that was damaged on disk is noticed, and the one before it continues the run.
damage)
  train 2 run="$work/run"
  expect_status 0
  cp -r "$work/run" "$work/whole"
  part=$work/run/checkpoints/step-000000020/part-001.h5
  printf '\377\377\377\377' | dd of="$part" bs=1 seek=$(($(stat -c %s "$part") / 2)) conv=notrunc status=none
  train 2
  expect_status 0
  expect_line 'the checkpoint of step 20 is skipped: .*part-001.h5'
  expect_line 'continuing at step 15'
  same_metrics "$work/whole" "$work/run"
  ;;

# A run that is complete says so, and can be prolonged.
complete)
  train 0 --json
  expect_status 0
  grep '^{' "$log" | sed -E 's/("tokens_per_s"|"memory_[a-z_]*"|"checkpoint[a-z_]*"): [^,}]*/\1/g' >"$work/first"
  grep -q '"loss": .*"val_loss": .*"val_perplexity": ' "$work/first" || fail 'no results'
  train 0 --json
  expect_status 0
  expect_line '"tokens_per_s": null'
  # Whoever collects results by starting a job again gets them again.
  grep '^{' "$log" | sed -E 's/("tokens_per_s"|"memory_[a-z_]*"|"checkpoint[a-z_]*"): [^,}]*/\1/g' >"$work/again"
  results='"[a-z_]*":?'
  diff <(grep -oE "$results" "$work/first") <(grep -oE "$results" "$work/again") || fail 'other keys'
  for key in loss kv_fraction val_loss val_kv_fraction; do
    diff <(grep -o "\"$key\": [^,]*" "$work/first") <(grep -o "\"$key\": [^,]*" "$work/again") || fail "another $key"
  done
  expect_line 'nothing left to do after step 20 of 20'
  [ "$(steps "$work/run")" -eq 20 ] || fail 'metrics changed'
  train 0 train.steps=25
  expect_status 0
  [ "$(steps "$work/run")" -eq 25 ] || fail 'not prolonged'
  ;;

# A report that did not arrive, because the disk is full, must not pass for success.
output)
  train 0 train.steps=2
  expect_status 0
  run=$work/run
  lost() {
    "$program" "$@" >/dev/full 2>"$log"
    status=$?
    expect_status 1
    [ "$(grep -c 'error:' "$log")" -eq 1 ] || fail "not one line of error for: $*"
    expect_line 'error: standard output: cannot write: No space left on device'
  }
  lost --version
  lost --help
  lost eval --help
  lost train "$run/config.yaml" --print-config
  lost train --help-config
  lost train "$run/config.yaml" --json
  lost eval "$run" --samples 1
  lost eval "$run" --samples 1 --json
  lost generate "$run" --tokens 2 --json
  lost data verify "$work/data" --json
  ;;

# Whoever plans a large run believes the table of memory that is printed first.
memory)
  for ranks in 1 2; do
    train $ranks run="$work/$ranks" model.layers=4 model.width=192 model.heads=4 train.length=256 \
      train.batch=8 train.micro_batch=4 train.steps=4 --json
    expect_status 0
    expect_line 'activations'
    planned=$(sed -nE 's/.*"memory_planned_bytes": ([0-9]+).*/\1/p' "$log")
    peak=$(sed -nE 's/.*"memory_peak_bytes": ([0-9]+).*/\1/p' "$log")
    awk -v planned="$planned" -v peak="$peak" 'BEGIN {
      room = peak / 10 > 32 * 2 ^ 20 ? peak / 10 : 32 * 2 ^ 20
      exit !(peak > 0 && planned - peak < room && peak - planned < room) }' ||
      fail "peak of $peak bytes, planned were $planned"
  done
  ;;

# A run leaves what is documented, and a data set without validation split is said once.
folder)
  "$program" data build --tokenizer byte --out "$work/unsplit" "${texts[@]}" >"$log" 2>&1
  train 2 data.path="$work/unsplit" --json
  expect_status 0
  [ "$(grep -c 'no validation split' "$log")" -eq 1 ] || fail 'not said once that there is no validation split'
  [ -z "$(field val_loss "$work/run")" ] || fail 'a validation loss out of nothing'
  [ "$(field step "$work/run" | tail -n 1)" -eq 20 ] || fail 'no line for step 20'
  "$program" train "$work/run/config.yaml" --print-config | cmp - "$work/run/config.yaml" || fail 'config.yaml differs'
  if command -v gnuplot >/dev/null; then
    for plot in loss kv_fraction; do
      [ "$(head -c 4 "$work/run/plots/$plot.png" | tail -c 3)" = PNG ] || fail "no $plot.png"
    done
  fi
  ;;

# The measurement that the speed claims rest on.
bench)
  bash "$tests/ranks.sh" 1 "$program" bench train model.width=32 model.layers=1 model.heads=2 model.vocab=64 \
    train.length=512 --steps 2 --json >"$log" 2>&1 || fail 'bench train failed'
  expect_line '"dense": {"step_ms"'
  sparse=$(sed -nE 's/.*"sparse": .*"kv_fraction": ([0-9.]+).*/\1/p' "$log")
  awk -v fraction="$sparse" 'BEGIN { exit !(fraction > 0 && fraction < 0.2) }' || fail 'sparse types are not sparse'
  bash "$tests/ranks.sh" 1 "$program" bench attention --heads 4 --kv-heads 2 --length 300 --head-size 8 \
    --window 16 --rounds 2 --tflops 1 --gb-per-s 1 --json >"$log" 2>&1 || fail 'bench attention failed'
  expect_line '"dense": {"kv_fraction": 1.0, "forward": {"ms"'
  expect_line '"backward_with_types": {"ms"'
  ;;
*) fail 'unknown' ;;
esac
echo "$name: passed"
