# Helpers for tests that run the whole program. To be sourced with the program's path as first argument; the
# sourcing script sets `name`, which messages begin with.
# shellcheck shell=bash disable=SC2154
program=$1
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
root=$(dirname "$tests")
work=$(mktemp -d)
log=$work/log
limit=60 # seconds of a run
started='' # what runs in the background
clean_up() {
  [ -z "$started" ] || kill "$started" 2>/dev/null
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 1' INT TERM
export OMP_NUM_THREADS=1
unset NATSFORMER_FAULT

fail() {
  echo "$name: $1"
  [ ! -f "$log" ] || cat "$log"
  exit 1
}

# On the CPU, unless NATSFORMER_TEST_DEVICE=cuda: what these tests compare is only there the same to the bit.
device=${NATSFORMER_TEST_DEVICE:-cpu}
[ "$device" = cuda ] || export CUDA_VISIBLE_DEVICES=

# train RANKS SETTINGS...: the exit code in $status, the output in $log. Hanging is a failure. 0 ranks: one
# process without mpirun, which needs seconds to end after a failure.
train() {
  local launcher=(bash "$tests/ranks.sh" "$1")
  [ "$1" -gt 0 ] || launcher=()
  timeout --kill-after=5 "$limit" "${launcher[@]}" "$program" train "$work/config.yaml" "${@:2}" >"$log" 2>&1
  status=$?
  case $status in 124 | 137) fail "still running after $limit s" ;; esac
}

expect_status() {
  [ "$status" -eq "$1" ] || fail "exit code $status instead of $1"
}

expect_line() {
  grep -q -- "$1" "$log" || fail "no line with '$1'"
}

expect_no_line() {
  ! grep -q -- "$1" "$log" || fail "a line with '$1'"
}

# steps RUN: lines of its metrics so far.
steps() {
  { wc -l <"$1/metrics.jsonl" || echo 0; } 2>/dev/null
}

# begin RANKS SETTINGS...: starts training in the background as $started.
begin() {
  bash "$tests/ranks.sh" "$1" "$program" train "$work/config.yaml" "${@:2}" >"$log" 2>&1 &
  started=$!
}

# wait_for_step RUN STEP
wait_for_step() {
  for _ in $(seq 600); do
    [ "$(steps "$1")" -lt "$2" ] || return 0
    kill -0 "$started" 2>/dev/null || fail "ended before step $2"
    sleep 0.05
  done
  fail "step $2 not reached within 30 s"
}

# wait_for_line TEXT: in the output of what runs in the background.
wait_for_line() {
  for _ in $(seq 600); do
    ! grep -q -- "$1" "$log" || return 0
    kill -0 "$started" 2>/dev/null || fail "ended without a line with '$1'"
    sleep 0.05
  done
  fail "no line with '$1' within 30 s"
}

# finish: waits for what `begin` started, its exit code in $status.
finish() {
  wait "$started"
  status=$?
  started=''
}

# metrics RUN: without the fields that tell time.
metrics() {
  sed -E 's/, "(tokens_per_s|seconds|comm_exposed_s|slowest_rank|imbalance)": [^,}]*//g' "$1/metrics.jsonl"
}

# field NAME RUN: its value in each line that has it.
field() {
  sed -nE "s/.*\"$1\": ([^,}]*).*/\1/p" "$2/metrics.jsonl"
}

same_metrics() {
  diff <(metrics "$1") <(metrics "$2") >"$log" || fail "metrics of ${1##*/} and ${2##*/} differ"
}

# close_to FIELD TOLERANCE RUN OTHER: line by line.
close_to() {
  paste <(field "$1" "$3") <(field "$1" "$4") >"$log"
  [ -s "$log" ] || fail "no values of $1"
  awk -v tolerance="$2" 'NF != 2 || $1 - $2 > tolerance || $2 - $1 > tolerance { exit 1 }' "$log" ||
    fail "$1 of ${3##*/} and ${4##*/} differ by more than $2"
}

# Text, a data set of it, and a configuration whose steps take milliseconds.
prepare() {
  local file
  texts=()
  for file in "$root"/nn/*.h; do
    texts+=("$work/$(basename "$file").txt")
    cp "$file" "${texts[-1]}"
  done
  "$program" data build --tokenizer byte --out "$work/data" --val 0.2 "${texts[@]}" >"$log" 2>&1 ||
    fail 'no data set'
  cat >"$work/config.yaml" <<END
run: $work/run
device: $device
data: {path: $work/data}
model: {layers: 2, width: 32, heads: 2, window: 4}
nats: {type_warmup: 0.2, lambda_ramp: 0.2, lambda: 0.1}
train: {steps: 20, batch: 12, micro_batch: 3, length: 32}
optimizer: {lr: 3e-3, lr_min: 3e-4, warmup: 4}
eval: {every: 5, samples: 7}
checkpoint: {every: 5}
END
}
prepare
