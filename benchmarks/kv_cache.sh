#!/usr/bin/env bash
# KV cache policies compared, from nothing: byte-level text and a recall task, models trained on them (dense; NAtS
# at two prices of the cache; a window from scratch), the comparison with every policy, tables and plots.
#   [SIZE=tiny|small] [RANKS=2] [OUT=runs/kv_cache] bash benchmarks/kv_cache.sh [FILES...]
# FILES: .txt, .jsonl or .jsonl.zst; without any the licence texts of this machine. tiny: does it all run? small:
# models that have learned something. Samples are from all over the validation split. benchmarks/lib.sh has the other
# settings; a larger comparison is a plan of your own (docs/benchmarks.md). Stopped and started again, it goes on
# where it was.
set -euo pipefail
RANKS=${RANKS:-2}
# shellcheck source=benchmarks/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
size=${SIZE:-small} out=${OUT:-$natsformer_root/runs/kv_cache}

case $size in
tiny)
  text_settings=(train.steps=30 train.length=64 model.width=32 model.layers=2 model.window=8 optimizer.warmup=5
    train.batch=8 train.micro_batch=4 eval.samples=4)
  recall_settings=(train.steps=20 train.batch=16 optimizer.warmup=5 eval.samples=16)
  length=64 samples=4 recall_samples=8 documents=2000 budgets='[0.5]'
  ;;
small)
  text_settings=()
  recall_settings=(train.steps=700 nats.type_warmup=0.6 nats.lambda_ramp=0.1)
  length=256 samples=24 recall_samples=128 documents=100000 budgets='[0.125, 0.25, 0.5]'
  ;;
*) natsformer_fail "SIZE: expected tiny or small, found '$size'" ;;
esac

# ---- data

mkdir -p "$out"
if [ ! -f "$out/text/manifest.json" ]; then
  files=("$@")
  if [ ${#files[@]} -eq 0 ]; then
    mkdir -p "$out/licences"
    for file in /usr/share/common-licenses/*; do
      [ ! -f "$file" ] || cp "$file" "$out/licences/${file##*/}.txt"
    done
    files=("$out"/licences/*.txt)
  fi
  "$program" data build --tokenizer byte --val 0.1 --out "$out/text" "${files[@]}"
fi
[ -f "$out/recall/manifest.json" ] || "$program" data synth mqar --out "$out/recall" --pairs 4 --queries 24 \
  --length 64 --window 4 --vocab 64 --samples "$documents" --val-samples 512

# ---- models: NAME, configuration, what differs from it

train() {
  [ "$stage" = compare ] || run "training $1" train "$natsformer_root/configs/$2.yaml" run="$out/$1" "${@:3}" \
    "${train_settings[@]}"
}
text() { train "$1" quickstart data.path="$out/text" "${text_settings[@]}" "${@:2}"; }
recall() { train "$1" mqar data.path="$out/recall" "${recall_settings[@]}" "${@:2}"; }
text dense model.attention=dense
text nats-0.1 nats.lambda=0.1
text nats-1 nats.lambda=1
text window model.attention=window
recall recall-dense model.attention=dense
recall recall-nats
recall recall-window model.attention=window

[ "$stage" != train ] || exit 0

# ---- the comparison

cat >"$out/plan.yaml" <<PLAN
data: $out/text
length: $length
samples: $samples
seeds: [1, 2, 3]
models:
  - {name: dense, run: $out/dense, trained: dense}
  - {name: nats-0.1, run: $out/nats-0.1, trained: nats}
  - {name: nats-1, run: $out/nats-1, trained: nats}
  - {name: window, run: $out/window, trained: window}
  - {name: recall-dense, run: $out/recall-dense, trained: dense, text: false}
  - {name: recall-nats, run: $out/recall-nats, trained: nats, text: false}
  - {name: recall-window, run: $out/recall-window, trained: window, text: false}
policies: [streaming, "streaming:reassign=0", h2o, tova, cam, random, window, "duo:recent=8"]
budgets: $budgets
match: [nats-0.1, nats-1, recall-nats]
page_tokens: 4
tasks:
  - {name: mqar, data: $out/recall, samples: $recall_samples, models: [recall-dense, recall-nats, recall-window]}
PLAN
compare "$out/plan.yaml" "$out/results"
natsformer_say "tables and plots: $out/results"
