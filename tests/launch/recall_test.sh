#!/usr/bin/env bash
# The search itself, on a task that has an answer: recall from far beyond the window.
#   bash tests/launch/recall_test.sh PROGRAM short|whole
# short: a shorter schedule and looser bounds than configs/mqar.yaml, which `whole` runs as it stands.
set -uo pipefail
name=$2
# shellcheck source=tests/launch/train_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/train_lib.sh"
limit=600
cp "$root/configs/mqar.yaml" "$work/config.yaml"
"$program" data synth mqar --out "$work/recall" --pairs 4 --queries 24 --length 64 --window 4 --vocab 64 \
  --samples 100000 --val-samples 512 >"$log" 2>&1 || fail 'no recall task'

# last FIELD RUN: its value at the last evaluation.
last() {
  field "$1" "$work/$2" | tail -n 1
}

# bound VALUE OPERATOR LIMIT WHAT
bound() {
  awk "BEGIN { exit !($1 $2 $3) }" || fail "$4: expected $2 $3, found $1"
}

case $name in
short) settings=(train.steps=700 nats.type_warmup=0.6 nats.lambda_ramp=0.1) accuracy=0.97 fraction=0.35 ;;
whole) settings=() accuracy=0.99 fraction=0.30 ;;
esac

# Otherwise the search drops what the model needs, or keeps everything.
train 2 run="$work/nats" data.path="$work/recall" "${settings[@]}"
expect_status 0
bound "$(last val_accuracy nats)" '>=' "$accuracy" 'accuracy of NAtS'
bound "$(last val_kv_fraction nats)" '<=' "$fraction" 'KV fraction of NAtS'

# Otherwise the task can be solved from within the window, and says nothing about the search.
train 2 run="$work/window" data.path="$work/recall" model.attention=window train.steps=300
expect_status 0
bound "$(last val_accuracy window)" '<' 0.2 'accuracy of a plain window'
