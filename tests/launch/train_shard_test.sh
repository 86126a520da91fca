#!/usr/bin/env bash
# Training with dist.shard: the results, the files and the memory that it promises.
#   bash tests/launch/train_shard_test.sh PROGRAM NAME
set -uo pipefail
name=$2
# shellcheck source=tests/launch/train_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/train_lib.sh"

# Buckets that begin and end anywhere in a layer, and gradients that are clipped.
small=(dist.bucket_mib=0.01 optimizer.clip=0.5)

case $name in
# Who saves memory must not get another model for it.
losses)
  for ranks in 2 3; do
    for shard in none optimizer gradients; do
      train $ranks run="$work/$ranks-$shard" dist.shard=$shard "${small[@]}" train.steps=24
      expect_status 0
    done
    for shard in optimizer gradients; do
      for what in loss val_loss grad_norm; do
        close_to $what 1e-6 "$work/$ranks-$shard" "$work/$ranks-none"
      done
    done
  done
  # On one rank there is nothing to share.
  train 0 run="$work/1-none" dist.shard=none
  train 0 run="$work/1-gradients" dist.shard=gradients
  expect_status 0
  same_metrics "$work/1-none" "$work/1-gradients"
  # Uneven numbers of passes, an output head of its own, biases.
  for shard in none gradients; do
    train 3 run="$work/uneven-$shard" dist.shard=$shard "${small[@]}" train.batch=10 train.micro_batch=1 \
      model.tied=false model.norm=layernorm model.mlp=gelu model.bias=true
    expect_status 0
  done
  close_to loss 1e-6 "$work/uneven-gradients" "$work/uneven-none"
  ;;

# A checkpoint does not show who wrote it: two ranks add two numbers in one order only, so every bit is the same. And
# a sharded run that was continued is the run that was not.
files)
  large=(model.width=192 model.heads=4 dist.bucket_mib=0.5 eval.every=0 train.steps=4 checkpoint.every=2)
  for shard in none optimizer; do
    train 2 run="$work/$shard" dist.shard=$shard checkpoint.writers=1 "${large[@]}"
    expect_status 0
  done
  for part in "$work/none"/checkpoints/step-00000000[24]/part-*.h5; do
    cmp "$part" "$work/optimizer/${part#"$work/none/"}" || fail 'other parameters or moments'
  done
  for shard in optimizer gradients; do
    run=$work/3-$shard
    train 3 run="$run" dist.shard=$shard "${small[@]}"
    cp -r "$run" "$run-parts"
    rm -r "$run-parts/checkpoints/step-000000020" "$run-parts/checkpoints/step-000000015"
    train 3 run="$run-parts" dist.shard=$shard "${small[@]}"
    expect_status 0
    expect_line 'continuing at step 10'
    same_metrics "$run" "$run-parts"
    for part in "$run"/checkpoints/step-000000020/part-*.h5; do
      cmp "$part" "$run-parts/checkpoints/step-000000020/${part##*/}" || fail 'other parameters or moments'
    done
  done
  ;;

# 3 ranks, then 1, 4 and 2, sharded and unsharded in turn: the same samples in the same order, the same run.
elastic)
  settings=("${small[@]}" eval.every=8 checkpoint.every=8 checkpoint.keep=9)
  train 2 run="$work/straight" train.steps=32 "${settings[@]}"
  expect_status 0
  at=0
  for part in '3 optimizer' '1 none' '4 gradients' '2 none' ; do
    read -r ranks shard <<<"$part"
    # The next part goes on from the checkpoint 8 steps further; what came after it is not there yet.
    train "$ranks" run="$work/parts" train.steps=32 dist.shard="$shard" "${settings[@]}"
    expect_status 0
    [ "$at" -eq 0 ] || expect_line "continuing at step $at"
    at=$((at + 8))
    for step in $(seq $((at + 8)) 8 32); do
      rm -r "$work/parts/checkpoints/step-$(printf %09d "$step")"
    done
  done
  diff <(field tokens "$work/straight") <(field tokens "$work/parts") >"$log" || fail 'other numbers of tokens'
  close_to loss 1e-4 "$work/straight" "$work/parts"
  close_to val_loss 1e-4 "$work/straight" "$work/parts"
  ;;

# A step with a NaN in it changes nothing on any rank, wherever the NaN is kept.
skip)
  for shard in none optimizer gradients; do
    NATSFORMER_FAULT=gradient:4-5 train 3 run="$work/$shard" dist.shard=$shard "${small[@]}"
    expect_status 0
    expect_line 'skipped .* 2 steps'
    [ "$(field grad_norm "$work/$shard" | sed -n 4,5p | tr '\n' ' ')" = 'null null ' ] ||
      fail 'no sign of the steps in the metrics'
  done
  close_to loss 1e-6 "$work/none" "$work/optimizer"
  close_to loss 1e-6 "$work/none" "$work/gradients"
  ;;

# Whoever shards to fit a model into memory believes the table that is printed first.
memory)
  for shard in none optimizer gradients; do
    train 3 run="$work/$shard" dist.shard=$shard model.layers=4 model.width=384 model.heads=4 train.length=32 \
      train.batch=3 train.micro_batch=1 train.steps=2 eval.every=0 checkpoint.every=0 --json
    expect_status 0
    for other in none optimizer gradients; do
      [ $other = $shard ] || expect_line "with dist.shard=$other "
    done
    sed -nE 's/.*"memory_peak_bytes": ([0-9]+).*"memory_planned_bytes": ([0-9]+).*/\1 \2/p' "$log"
  done >"$work/memory"
  awk '{ peak[NR] = $1; planned[NR] = $2
         if ($1 - $2 > 32 * 2 ^ 20 || $2 - $1 > 32 * 2 ^ 20) exit 1 }
       END { if (NR != 3 || peak[1] - peak[2] < (planned[1] - planned[2]) / 2 || peak[3] >= peak[2]) exit 1 }' \
    "$work/memory" || fail "peaks and plans in bytes: $(tr '\n' ';' <"$work/memory")"
  ;;
*) fail 'unknown' ;;
esac
echo "$name: passed"
