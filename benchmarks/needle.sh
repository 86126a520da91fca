#!/usr/bin/env bash
# A needle in a haystack, from nothing: digits hidden at every depth of filler, models that find them (dense; NAtS), and
# what each cache policy still finds, over lengths and depths. Models learn the task in 64 tokens, and then in texts
# four times as long until LENGTH, each stage with the weights of the one before: a token that matters among thousands
# is found late, or never, by random weights. Minutes on two cores; LENGTH=16384 is for a GPU.
#   [LENGTH=1024] [OUT=runs/needle] bash benchmarks/needle.sh
# LENGTH: tokens of the longest text; 512 at least. benchmarks/lib.sh has the other settings. Stopped and started again,
# it goes on where it was.
set -euo pipefail
# shellcheck source=benchmarks/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
longest=${LENGTH:-1024} out=${OUT:-$natsformer_root/runs/needle}
models=(dense nats)
declare -A attention=([dense]=dense [nats]=nats)

lengths=(64)
while [ "${lengths[-1]}" -lt "$longest" ]; do
  next=$((lengths[-1] * 4))
  lengths+=($((next < longest ? next : longest)))
done

# Sequences of a step: short texts are cheap, and long ones have few labels.
batch_of() { # LENGTH
  local batch=$((32768 / $1))
  echo $((batch > 64 ? 64 : batch < 4 ? 4 : batch))
}

stage_of() { # MODEL LENGTH WEIGHTS: one stage of training
  local batch steps=300 settings=(optimizer.lr=0.001 optimizer.lr_min=0.0001 optimizer.warmup=20
    nats.type_warmup=0 nats.lambda_ramp=0)
  batch=$(batch_of "$2")
  [ -n "$3" ] || steps=2500 settings=()
  [ -f "$out/data-$2/manifest.json" ] || "$program" data synth passkey --out "$out/data-$2" --digits 5 --vocab 64 \
    --window 16 --length "$2" --samples $((steps * batch < 40000 ? steps * batch : 40000)) --val-samples 64 --seed 1000
  run "training $1 in $2 tokens" train "$natsformer_root/configs/mqar.yaml" run="$out/$1-$2" train.from="$3" \
    data.path="$out/data-$2" train.length="$2" train.batch="$batch" train.micro_batch="$batch" train.steps=$steps \
    model.attention="${attention[$1]}" model.window=16 model.rope_theta=1000000 eval.every=0 eval.samples=64 \
    checkpoint.every=0 "${settings[@]}" "${train_settings[@]}"
}

mkdir -p "$out"
if [ "$stage" != compare ]; then
  for model in "${models[@]}"; do
    weights=''
    for length in "${lengths[@]}"; do
      stage_of "$model" "$length" "$weights"
      weights=$out/$model-$length
    done
  done
fi
[ "$stage" != train ] || exit 0

cat >"$out/plan.yaml" <<PLAN
seeds: [1, 2, 3]
models:
  - {name: dense, run: $out/dense-$longest, trained: dense}
  - {name: nats, run: $out/nats-$longest, trained: nats}
policies: [streaming, h2o, tova, random, snapkv]
budgets: [0.03, 0.125, 0.25]
match: [nats]
batch: 16
page_tokens: 4
needle:
  lengths: [$((longest / 16)), $((longest / 8)), $((longest / 4)), $((longest / 2)), $longest]
  depths: [0.05, 0.275, 0.5, 0.725, 0.95]
  samples: 16
  models: [dense, nats]
PLAN
compare "$out/plan.yaml" "$out/results"
natsformer_say "tables and plots: $out/results"
