#!/usr/bin/env bash
# Cache policies on books, as in a paper: a tokenizer and a data set, models trained from scratch on the same tokens
# (dense; a plain window; NAtS at several prices of the cache), every policy on the dense model, tables and plots.
#   [SIZE=mini|gpt2|small|tiny] [MODELS="dense window-16 ..."] [OUT=runs/books] bash benchmarks/books.sh VALIDATION TRAINING...
# VALIDATION, TRAINING: .txt, .jsonl or .jsonl.zst. gpt2: the shape of GPT-2 small, 1,024 tokens, a minute a model on a
# large GPU (TRAIN=train.steps=20000 for better ones); mini: 8 layers of width 512; small: an hour on two cores; tiny:
# does it all run? MODELS names the models in the order of training: windows of so many tokens, NAtS at the price behind
# its name (nats-2-w8: with a window of 8). benchmarks/lib.sh has the other settings. Stopped and started again, also
# with more models, it goes on where it was.
set -euo pipefail
# shellcheck source=benchmarks/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
size=${SIZE:-mini} out=${OUT:-$natsformer_root/runs/books}
read -ra models <<<"${MODELS:-dense window-16 nats-0.02 nats-0.2 nats-2}"

vocabulary=8192 settings=(model.vocab=0 eval.every=0 eval.samples=64 checkpoint.every=0
  optimizer.lr=0.001 optimizer.lr_min=0.0001 nats.type_warmup=0.3 nats.lambda_ramp=0.2)
case $size in
mini)
  settings+=(model.width=512 model.layers=8 model.heads=8 train.steps=1500 train.batch=32 train.micro_batch=32
    optimizer.warmup=100)
  length=1024 samples=64 batch=64
  ;;
gpt2)
  settings+=(train.steps=1000 train.batch=32 train.micro_batch=32 optimizer.lr=0.0008 optimizer.lr_min=0.00008
    optimizer.warmup=100)
  length=1024 samples=64 batch=64
  ;;
small)
  settings+=(model.width=256 model.layers=4 model.heads=4 train.steps=1500 train.batch=8 train.micro_batch=8
    train.length=256 optimizer.lr=0.002 optimizer.lr_min=0.0002 optimizer.warmup=50)
  length=256 samples=64 batch=16
  ;;
tiny)
  vocabulary=512
  settings+=(model.width=32 model.layers=2 model.heads=2 train.steps=30 train.batch=8 train.micro_batch=8
    train.length=64 model.window=8 optimizer.warmup=5)
  length=64 samples=4 batch=4
  ;;
*) natsformer_fail "SIZE: expected mini, gpt2, small or tiny, found '$size'" ;;
esac

# ---- data

mkdir -p "$out"
if [ ! -f "$out/text/manifest.json" ]; then
  [ $# -ge 2 ] || natsformer_fail 'expected a file of validation texts, and at least one to train on'
  "$program" data train-tokenizer --vocab "$vocabulary" --out "$out/tokenizer.model" --force "${@:2}"
  "$program" data build --tokenizer "sp:$out/tokenizer.model" --out "$out/text" --val-input "$@"
fi

# ---- models

list='' cheapest='' least=0
for model in "${models[@]}"; do
  number=${model#*-} trained=${model%%-*} window=()
  if [[ $number == *-w* ]]; then
    window=(model.window="${number##*-w}") number=${number%-w*}
  fi
  case $model in
  dense) own=(model.attention=dense) ;;
  window-*) own=(model.attention=window model.window="$number") ;;
  nats-*) own=(model.attention=nats nats.lambda="$number" "${window[@]}") ;;
  *) natsformer_fail "MODELS: expected dense, window-TOKENS, nats-LAMBDA or nats-LAMBDA-wTOKENS, found '$model'" ;;
  esac
  [ "$stage" = compare ] || run "training $model" train "$natsformer_root/configs/pg19-gpt2-small.yaml" \
    run="$out/$model" data.path="$out/text" "${settings[@]}" "${own[@]}" "${train_settings[@]}"
  list+="  - {name: $model, run: $out/$model, trained: $trained}"$'\n'
  # The highest price leaves the smallest cache: rivals are matched to it, and it says how heads use theirs.
  if [ "$trained" = nats ] && awk "BEGIN { exit !($number > $least) }"; then
    cheapest=$model least=$number
  fi
done
[ "$stage" != train ] || exit 0

# ---- the comparison; what matters most comes first

duo='' match=''
if [ -n "$cheapest" ]; then
  match="match: [$cheapest]" duo="  - {policy: duo, models: [$cheapest]}"
fi
cat >"$out/plan.yaml" <<PLAN
data: $out/text
length: $length
samples: $samples
batch: $batch
seeds: [1]
page_tokens: 8
models:
${list%$'\n'}
policies:
  - h2o
  - streaming
  - tova
  - random
  - window
  - cam
  - streaming:reassign=0
$duo
budgets: [0.125, 0.06, 0.25, 0.03, 0.5]
$match
PLAN
compare "$out/plan.yaml" "$out/results"
natsformer_say "tables and plots: $out/results"
