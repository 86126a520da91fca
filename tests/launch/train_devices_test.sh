#!/usr/bin/env bash
# Training on GPUs: the results of the CPU, on one GPU and on two. Exit code 77, skipped, where there are none.
#   bash tests/launch/train_devices_test.sh PROGRAM one|two
set -uo pipefail
name=$2
# shellcheck source=tests/launch/train_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/train_lib.sh"
unset CUDA_VISIBLE_DEVICES # which train_lib.sh hid
steps=(train.steps=50 eval.every=25 checkpoint.every=25 optimizer.warmup=10
  nats.type_warmup=0 nats.scorer_bias=0) # types of all kinds from the first step on

# on_gpus RANKS SETTINGS...: as train; a machine or a build without so many GPUs skips the test.
on_gpus() {
  train "$1" device=cuda "${@:2}"
  if grep -qE 'built without (CUDA|NCCL)|no GPU is visible|has no NVIDIA driver|would share one GPU|finds no GPU' "$log"; then
    echo "$name: skipped: $(grep 'error:' "$log" | head -n 1)"
    exit 77
  fi
  expect_status 0
}

# letters RUN DEVICE PRECISION: the types that the run's last weights choose for texts held out, a letter each.
letters() {
  for sample in {0..15}; do
    "$program" eval "$1" --types "$work/page.html" --sample "$sample" --device "$2" --precision "$3" \
      >"$log" 2>&1 || fail 'no page of types'
    grep -oE '"[glw]{8,}"' "$work/page.html"
  done | tr -d '"\n'
}

# same_types SHARE A B: at most that share of the letters in two files differs.
same_types() {
  local all differ
  all=$(wc -c <"$2") differ=$(cmp -l "$2" "$3" | wc -l)
  [ "$all" -ge 1000 ] && [ "$all" -eq "$(wc -c <"$3")" ] || fail "types of $all tokens in $2, of others in $3"
  awk "BEGIN { exit !($differ <= $1 * $all) }" || fail "$differ of $all types differ between $2 and $3"
}

limit=600 # the emulated GPU is slow
case $name in
one)
  on_gpus 0 run="$work/float32" precision=float32 "${steps[@]}"
  on_gpus 0 run="$work/bf16" precision=bf16 "${steps[@]}"
  train 0 run="$work/cpu" device=cpu "${steps[@]}"
  expect_status 0
  close_to loss 1e-4 "$work/float32" "$work/cpu"
  close_to kv_fraction 1e-2 "$work/float32" "$work/cpu"
  close_to loss 1e-2 "$work/bf16" "$work/cpu"
  letters "$work/cpu" cpu float32 >"$work/types.cpu"
  letters "$work/cpu" cuda float32 >"$work/types.float32"
  letters "$work/cpu" cuda bf16 >"$work/types.bf16"
  same_types 0 "$work/types.cpu" "$work/types.float32"
  same_types 0.01 "$work/types.cpu" "$work/types.bf16"

  # A run goes on elsewhere, both ways, and ends as the undisturbed one.
  for way in 'cpu cuda' 'cuda cpu'; do
    read -r from to <<<"$way"
    run=$work/$from-$to
    cp -r "$work/$([ "$from" = cpu ] && echo cpu || echo float32)" "$run"
    rm -rf "$run/checkpoints/step-000000050"
    train 0 run="$run" device="$to" precision=float32 "${steps[@]}"
    expect_status 0
    expect_line 'continuing at step 25'
    close_to loss 1e-4 "$run" "$work/cpu"
  done

  # Computing activations again changes nothing.
  on_gpus 0 run="$work/block" precision=float32 train.recompute=block "${steps[@]}"
  close_to loss 1e-6 "$work/block" "$work/float32"
  ;;

two)
  on_gpus 2 run="$work/two" precision=float32 "${steps[@]}"
  on_gpus 2 run="$work/small" precision=float32 dist.bucket_mib=0.01 "${steps[@]}"
  on_gpus 2 run="$work/packed" precision=float32 dist.gradients=bf16 "${steps[@]}"
  on_gpus 0 run="$work/one" precision=float32 "${steps[@]}"
  close_to loss 1e-4 "$work/two" "$work/one"
  close_to loss 1e-4 "$work/small" "$work/one"
  close_to loss 1e-2 "$work/packed" "$work/one"

  # A rank that stands still: the others say for what they wait, and nobody is left.
  NATSFORMER_FAULT=hangs:15 train 2 device=cuda run="$work/still" dist.deadline=5
  [ "$status" -ne 0 ] || fail 'exit code 0 although a rank stood still'
  expect_line 'did not complete within 5 s'
  ;;
*) fail 'unknown' ;;
esac
echo "$name: passed"
