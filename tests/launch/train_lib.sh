# Helpers for tests that run the whole program. To be sourced with the program's path as first argument; the
# sourcing script sets `name`, which messages begin with.
# shellcheck shell=bash disable=SC2154
program=$1
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
root=$(dirname "$tests")
work=$(mktemp -d)
log=$work/log
limit=60 # seconds of a run, and of each wait for one: less than CTest's, which tells nothing of what was going on
started='' # what runs in the background
clean_up() {
  [ -z "$started" ] || end_started
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

expect_status() {
  [ "$status" -eq "$1" ] || fail "exit code $status instead of $1"
}

expect_line() {
  grep -q -- "$1" "$log" || fail "no line with '$1'"
}

expect_no_line() {
  ! grep -q -- "$1" "$log" || fail "a line with '$1'"
}

# ---- in the background

# steps RUN: lines of its metrics so far.
steps() {
  { wc -l <"$1/metrics.jsonl" || echo 0; } 2>/dev/null
}

# start COMMAND...: in the background as $started, with its output in $log.
start() {
  "$@" >"$log" 2>&1 &
  started=$!
}

# begin RANKS SETTINGS...: starts training. 0 ranks: one process without mpirun, which takes longer to start than a
# short run.
begin() {
  local launcher=(bash "$tests/ranks.sh" "$1")
  [ "$1" -gt 0 ] || launcher=()
  start "${launcher[@]}" "$program" train "$work/config.yaml" "${@:2}"
}

# nap SECONDS: as sleep, without a process.
exec {silence}<> <(:)
nap() {
  read -rt "$1" -u "$silence"
}

# descendants PID: it and the processes that it started.
descendants() {
  local child
  echo "$1"
  for child in $(pgrep -P "$1"); do
    descendants "$child"
  done
}

# With all that it started, stopped processes too; nobody is asked.
end_started() {
  # shellcheck disable=SC2046 # a word each
  kill -KILL $(descendants "$started") 2>/dev/null
  wait "$started" 2>/dev/null
  started=''
}

# give_up WHAT: fails, and tells what the processes were at.
give_up() {
  echo "$name: $1; processes:"
  ps -o pid,ppid,stat,wchan:20,etime,time,args -p "$(descendants "$started" | paste -s -d ,)"
  end_started
  fail "$1"
}

# wait_until WHAT COMMAND...: until the command succeeds, while what runs in the background does.
wait_until() {
  local end=$((SECONDS + limit)) runs=yes
  until "${@:2}"; do
    [ $runs = yes ] || fail "ended before: $1"
    [ $SECONDS -lt $end ] || give_up "not within $limit s: $1"
    nap 0.02
    kill -0 "$started" 2>/dev/null || runs=no # and look once more
  done
}

has_steps() {
  [ "$(steps "$1")" -ge "$2" ]
}

has_line() {
  grep -q -- "$1" "$log"
}

# wait_for_step RUN STEP
wait_for_step() {
  wait_until "step $2" has_steps "$1" "$2"
}

# wait_for_line TEXT: in the output of what runs in the background.
wait_for_line() {
  wait_until "a line with '$1'" has_line "$1"
}

# finish: waits for what `begin` started, its exit code in $status.
finish() {
  local end=$((SECONDS + limit))
  while kill -0 "$started" 2>/dev/null; do
    [ $SECONDS -lt $end ] || give_up "still running after $limit s"
    nap 0.02
  done
  wait "$started"
  status=$?
  started=''
}

# train RANKS SETTINGS...: a whole run, its exit code in $status.
train() {
  begin "$@"
  finish
}

# stop STEP RANKS SETTINGS...: starts a run, and asks it to stop in the middle of this step. However fast it is, it
# waits there for that.
stop() {
  NATSFORMER_FAULT=waits:$1 begin "${@:2}"
  wait_for_line "step $1: waiting to be asked to stop"
  kill -USR1 "$started"
  finish
  expect_status 75
  expect_line "stopped after step $1 "
}

# ---- what a run leaves

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
