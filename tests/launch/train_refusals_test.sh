#!/usr/bin/env bash
# What cannot be trained: one clear line, a non-zero exit on all ranks, and nothing half-written.
#   bash tests/launch/train_refusals_test.sh PROGRAM
set -uo pipefail
name=refusals
# shellcheck source=tests/launch/train_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/train_lib.sh"

# refuse STATUS TEXT SETTINGS...: on as many ranks as $ranks says.
ranks=0
refuse() {
  train "$ranks" "${@:3}"
  [ "$status" -eq "$1" ] || fail "exit code $status instead of $1 for: ${*:3}"
  [ "$(grep -c 'error:' "$log")" -eq 1 ] || fail "not one line of error for: ${*:3}"
  expect_line "error: $2"
}

# Mistakes of the person who types.
ranks=2 refuse 2 "command line: unknown key 'model.widht'; did you mean 'model.width'?" model.widht=64
refuse 2 'command line: train.batch: expected a whole number from 1 to [0-9]*, found .12.5.' train.batch=12.5
refuse 2 'command line: optimizer.lr: expected a number above 0 to 1000, found .1e999.' optimizer.lr=1e999
refuse 2 'model.width: expected a multiple of model.heads (3), found 32' model.heads=3
ranks=2 refuse 2 'train.batch: expected at least one sequence for each of 2 ranks, found 1' train.batch=1
ranks=2 refuse 2 'model.vocab: expected at least 257, the vocabulary of the data, found 256' model.vocab=256
refuse 2 'run: expected the name of the run folder' run=
refuse 2 'data.path: expected the folder of a data set' data.path=
ranks=2 refuse 2 "train: unknown option '--jsom'" --jsom
refuse 2 'command line: device: expected one of auto|cpu|cuda, found .tpu.' device=tpu
ranks=2 refuse 2 'dist.gradients: bf16 needs GPUs; CPUs sum gradients in float32' dist.gradients=bf16 device=cpu
refuse 2 'precision: bf16 needs a GPU; the CPU computes in float32' precision=bf16 device=cpu
refuse 2 'command line: dist.gradients: expected one of float32|bf16, found .fp16.' dist.gradients=fp16
echo 'nats: {lamda: 1}' >>"$work/config.yaml"
refuse 2 "$work/config.yaml:[0-9]*: nats: section given twice"
sed -i '$d' "$work/config.yaml"
[ ! -e "$work/run" ] || fail 'a run folder although nothing was trained'

# Data that is missing, cut, or damaged.
ranks=2 refuse 1 "$work/nowhere" data.path="$work/nowhere"
cp -r "$work/data" "$work/cut"
shard=$work/cut/train-00000.h5
truncate -s $(($(stat -c %s "$shard") - 1)) "$shard"
refuse 1 "$shard" data.path="$work/cut"
refuse 1 '.* tokens make no sample' train.length=10000000
[ ! -e "$work/run" ] || fail 'a run folder although nothing was trained'
cp -r "$work/data" "$work/flipped"
shard=$work/flipped/train-00000.h5
printf '\252\125' | dd of="$shard" bs=1 seek=$(($(stat -c %s "$shard") / 2)) conv=notrunc status=none
ranks=2 refuse 1 "$shard" data.path="$work/flipped" train.steps=200

# Weights of other runs.
ranks=2 refuse 2 "train.from: $work/nowhere: expected a run folder with a checkpoint in it, found none" train.from="$work/nowhere"
train 0 run="$work/wide" model.width=64
expect_status 0
ranks=2 refuse 1 '.*tensor param/embedding.weight: expected \[320, 32\], found \[320, 64\]' train.from="$work/wide"

# Folders of other runs.
train 2
expect_status 0
ranks=2 refuse 2 "$work/run: this run folder belongs to another configuration: model.width is 32 there and 64 here" model.width=64
refuse 2 "$work/run: this run folder belongs to another configuration: optimizer.lr is 0.003 there" optimizer.lr=1e-3
cp "${texts[0]}" "$work/more.txt"
"$program" data build --tokenizer byte --out "$work/other" "$work/more.txt" >"$log" 2>&1 || fail 'no data set'
refuse 2 "$work/run: this run folder belongs to another configuration: data.tokens is [0-9]* there" data.path="$work/other"
mkdir "$work/shifted" # as many tokens, but not the same
for text in "${texts[@]}"; do
  tr 'a-y' 'b-z' <"$text" >"$work/shifted/${text##*/}"
done
"$program" data build --tokenizer byte --val 0.2 --out "$work/same_size" "$work"/shifted/* >"$log" 2>&1 || fail 'no data set'
refuse 2 "$work/run: this run folder belongs to another configuration: data.hash is [0-9a-f]* there" data.path="$work/same_size"
train 2 eval.every=4 train.micro_batch=2 # these may change
expect_status 0
expect_line 'nothing left to do'
echo "$name: passed"
