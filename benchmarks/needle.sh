#!/usr/bin/env bash
# A needle in a haystack, from nothing: digits hidden at every depth of filler, models trained to find them (dense;
# NAtS), and what each cache policy still finds, over lengths and depths. A minute on a GPU and minutes on two cores.
#   [LENGTH=1024] [OUT=runs/needle] bash benchmarks/needle.sh
# LENGTH: tokens of the longest text, and of all texts in training; 128 at least. benchmarks/lib.sh has the other settings. Stopped
# and started again, it goes on where it was.
set -euo pipefail
# shellcheck source=benchmarks/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
length=${LENGTH:-1024} out=${OUT:-$natsformer_root/runs/needle}

train() { # NAME SETTINGS...
  run "training $1" train "$natsformer_root/configs/mqar.yaml" run="$out/$1" data.path="$out/data" \
    train.length="$length" train.steps=2500 model.window=16 model.rope_theta=10000 eval.every=0 checkpoint.every=0 \
    "${@:2}" "${train_settings[@]}"
}

mkdir -p "$out"
if [ "$stage" != compare ]; then
  [ -f "$out/data/manifest.json" ] || "$program" data synth passkey --out "$out/data" --digits 5 --vocab 64 \
    --window 16 --length "$length" --samples 40000 --val-samples 256
  train dense model.attention=dense
  train nats
fi
[ "$stage" != train ] || exit 0

cat >"$out/plan.yaml" <<PLAN
seeds: [1, 2, 3]
models:
  - {name: dense, run: $out/dense, trained: dense}
  - {name: nats, run: $out/nats, trained: nats}
policies: [streaming, h2o, tova, random, snapkv]
budgets: [0.06, 0.125, 0.25]
match: [nats]
batch: 16
page_tokens: 4
needle:
  lengths: [$((length / 4)), $((length / 2)), $length]
  depths: [0.05, 0.275, 0.5, 0.725, 0.95]
  samples: 16
  models: [dense, nats]
PLAN
compare "$out/plan.yaml" "$out/results"
natsformer_say "tables and plots: $out/results"
