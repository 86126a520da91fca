#!/usr/bin/env bash
# How ranks end: with what exit code, what message, and that nobody is left behind.
#   bash tests/dist/process_test.sh PROGRAM MODE
set -uo pipefail
program=$1 mode=$2
tests=$(cd "$(dirname "$0")/.." && pwd)
log=$(mktemp)
trap 'rm -f "$log"' EXIT

fail() {
  echo "$mode: $1"
  cat "$log"
  exit 1
}

# run LIMIT RANKS ARGUMENTS...: the exit code in $status; a run past the limit counts as hanging.
run() {
  timeout --kill-after=5 "$1" bash "$tests/ranks.sh" "$2" "$program" "${@:3}" >"$log" 2>&1
  status=$?
  case $status in 124 | 137) fail "still running after $1 s" ;; esac
}

expect_status() {
  [ "$status" -eq "$1" ] || fail "exit code $status instead of $1"
}

expect_line() {
  grep -q -- "$1" "$log" || fail "no line with '$1'"
}

# signal NAME COMMAND...: sends the signal when the ranks say that they are ready; the exit code in $status.
signal() {
  "${@:2}" >"$log" 2>&1 &
  local started=$!
  for _ in $(seq 200); do
    ! grep -q ready "$log" || break
    sleep 0.1
  done
  kill "-$1" "$started"
  wait "$started"
  status=$?
}

case $mode in
kill) # a rank that dies takes the others along, within a minute
  # mpirun ends with 128 + 9 here, as a timeout by SIGKILL would: time tells them apart
  started=$SECONDS
  timeout 60 bash "$tests/ranks.sh" 2 "$program" kill >"$log" 2>&1
  status=$?
  [ "$status" -ne 0 ] || fail "exit code 0 although a rank was killed"
  [ $((SECONDS - started)) -lt 60 ] || fail "still running after 60 s"
  expect_line 'another rank has ended'
  ;;
abort) # the rank's message arrives and its exit code is mpirun's
  for code in 1 2; do
    run 60 3 abort "$code"
    expect_status "$code"
    expect_line 'natsformer\[2\]: error: the disk of this rank is full'
  done
  ;;
deadline) # whoever waits for a rank that does not come says for what, and ends
  run 25 2 deadline
  [ "$status" -ne 0 ] || fail "exit code 0 although a collective failed"
  expect_line 'natsformer\[0\]: error: rank 0 of 2: all-reduce (sum) of 7 float32 did not complete within 1 s'
  expect_line 'natsformer\[0\]: error: rank 0 of 2: barrier is impossible: an earlier operation'
  ;;
missing) # one that hangs is named by the others, with what it did last, whichever it is
  for rank in 0 1 2; do
    run 25 3 missing $rank
    [ "$status" -ne 0 ] || fail "exit code 0 although rank $rank never came"
    expect_line "did not complete within 1 s in step 12 (training): waiting for rank $rank (last heard of [0-9]* s ago: computing in step 1\?[0-9] (training))"
    [ "$(grep -c 'error:' "$log")" -eq 1 ] || fail 'not one line of error'
  done
  ;;
stop) # USR1 to mpirun reaches the ranks; all stop together and the whole exits with 75
  signal USR1 bash "$tests/ranks.sh" 2 "$program" stop
  expect_status 75
  [ "$(grep -c 'stopped' "$log")" -eq 2 ] || fail "not both ranks stopped"
  ;;
script) # launch/ranks.sh turns TERM, which mpirun answers by killing the ranks, into a stop that can save
  signal TERM bash "$tests/../launch/ranks.sh" 2 "$program" stop
  expect_status 75
  [ "$(grep -c 'stopped' "$log")" -eq 2 ] || fail "not both ranks stopped"
  ;;
interface) # tasks that a launcher of another MPI started do not each believe to be alone
  env -u OMPI_COMM_WORLD_SIZE -u PMIX_RANK PMI_RANK=0 PMI_SIZE=3 "$program" world >"$log" 2>&1
  status=$?
  expect_status 1
  expect_line 'the launcher started 3 ranks, but the MPI library of this program sees 1'
  ;;
*)
  fail 'unknown mode'
  ;;
esac
echo "$mode: passed"
