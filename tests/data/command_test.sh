#!/usr/bin/env bash
# The program itself, as people type it: `natsformer data ...`. When this fails, a command that the
# documentation shows does not work, or bad input ends without a clear line, or leaves half of something.
#   bash tests/data/command_test.sh PROGRAM session|refusals|disk|memory
set -uo pipefail
program=$1
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

fail() {
  echo "$1"
  [ ! -f out ] || tail -n 30 out err
  exit 1
}

# run RANKS STATUS ARGUMENTS...: `natsformer data ARGUMENTS`; 0 ranks: without mpirun.
run() {
  local launcher=(bash "$tests/ranks.sh" "$1") expected=$2 status
  [ "$1" -gt 0 ] || launcher=()
  timeout --kill-after=5 200 "${launcher[@]}" "$program" data "${@:3}" >out 2>err
  status=$?
  [ "$status" -eq "$expected" ] || fail "data ${*:3}: exit code $status instead of $expected"
}

expect() {
  grep -qF -- "$2" "$1" || fail "no '$2' in '$1'"
}

# One line that begins with "error", from one rank.
expect_error() {
  [ "$(grep -c 'error: ' err)" -eq 1 ] || fail 'not exactly one error line'
  expect err "$1"
}

make_text() {
  local i
  for i in $(seq 60); do
    printf '{"title": "%s", "text": "It was number %s.\\n\\nIt  was   not \\u00e9%s."}\n' "$i" "$i" "$((i * i))"
  done >books.jsonl
  seq 5000 | sed 's/.*/line number &, and then some more/' >one.txt
}

session() {
  make_text
  run 2 0 train-tokenizer --vocab 300 --out model books.jsonl one.txt
  run 2 0 build --tokenizer sp:model --out text --val 0.1 --json books.jsonl one.txt
  expect out '"kind": "sentencepiece"'
  expect out '"documents": 55'
  run 1 0 build --tokenizer=byte --out=bytes --val-input one.txt books.jsonl
  expect out 'vocabulary 257'
  run 3 0 verify text
  expect out 'all 4 files are whole'
  run 0 0 verify text --json
  expect out '"ok": true'
  run 2 0 inspect bytes
  expect out 'It was number 1.'
  run 2 0 inspect bytes --split val --tokens 11 --json
  expect out '"text": "line number"'
  run 2 0 synth mqar --out recall --samples 300 --val-samples 20
  run 0 0 inspect recall
  expect out 'what the model must say there'
  run 0 0 synth passkey --out needle --samples 10 --val-samples 0 --length 100 --digits 3 --depth 0.5
  run 0 0 verify needle
  expect out 'all 2 files are whole'
}

refusals() {
  make_text
  run 2 2
  expect_error 'which of its subcommands'
  run 0 2 bild
  expect_error "unknown subcommand 'bild'"
  run 0 2 build --tokenizer byte one.txt
  expect_error 'data build: --out is missing'
  run 0 2 build --tokenizer byte --out text
  expect_error 'no input files'
  run 0 2 build --tokenizer byte --out text --val 1.5 one.txt
  expect_error "--val: expected a number from 0 to 0.999999, found '1.5'"
  run 0 2 build --tokenizer words --out text one.txt
  expect_error "unknown tokenizer 'words'"
  run 0 2 build --tokeniser byte --out text one.txt
  expect_error "unknown option '--tokeniser'"
  run 0 2 synth mqar --out text --length 20
  expect_error 'do not fit into 20 tokens'
  run 2 1 verify text
  expect_error 'text: no data set here'
  run 0 1 inspect text
  expect_error 'text: no data set here'
  run 2 1 build --tokenizer byte --out text --field body books.jsonl
  expect_error "books.jsonl: line 1: no field 'body'"
  : >empty.txt
  run 3 1 build --tokenizer byte --out text one.txt empty.txt books.jsonl
  expect_error 'empty.txt: holds no text'
  printf 'caf\351' >latin1.txt
  run 3 1 build --tokenizer byte --out text books.jsonl latin1.txt
  expect_error 'latin1.txt: line 1, byte 3'
  [ ! -e text ] || fail 'something was left behind'
  run 0 0 build --tokenizer byte --out text books.jsonl
  run 2 2 build --tokenizer byte --out text one.txt
  expect_error 'text: already holds a data set; --force replaces it'
  run 2 0 build --tokenizer byte --out text --force one.txt
  truncate -s -1 text/train-00000.h5
  run 2 1 verify text
  expect_error 'text/train-00000.h5: has '
  expect out 'DAMAGED'
}

# A disk that fills up ends with the file's name, and the old data set is still there.
disk() {
  make_text
  for _ in $(seq 30); do cat one.txt; done >large.txt
  run 0 0 build --tokenizer byte --out text one.txt
  cp -r text before
  (
    trap '' XFSZ
    ulimit -f 1000
    run 0 1 build --tokenizer byte --out text --force large.txt
    expect_error 'text/.building/train-0.part'
  ) || exit 1
  diff -r text before || fail 'the old data set has changed'
  run 0 0 verify text
}

# Half a gigabyte is promised, whatever the size of the corpus and of one document; this is far below.
memory() {
  local limit=$((200 << 10)) # KiB
  awk 'BEGIN {
    printf "{\"text\": \""; for (i = 0; i < 3000000; i++) printf "word%d and\\n", i % 99991; print "\"}"
    for (d = 0; d < 400000; d++) printf "{\"id\": %d, \"text\": \"Document %d of these. It has   spaces, and an end.\"}\n", d, d
  }' >large.jsonl
  (
    ulimit -v "$((limit * 5))" # the address space, libraries and all: a leak ends here
    run 0 0 build --tokenizer byte --out bytes --val 0.01 large.jsonl
    run 0 0 train-tokenizer --vocab 400 --sample-mib 1 --out model large.jsonl
    run 0 0 build --tokenizer sp:model --out pieces large.jsonl
    run 0 0 verify pieces
  ) || exit 1
  # What was resident at most, of this process's children.
  bash -c '"$1" data build --tokenizer byte --out again large.jsonl 2>err & pid=$!; most=0
           while size=$(awk "/VmHWM/ {print \$2}" "/proc/$pid/status" 2>err2) && [ -n "$size" ]; do most=$size; sleep 0.05; done
           wait "$pid" && echo "$most"' - "$program" >out || fail 'the build failed'
  [ "$(tail -n 1 out)" -le "$limit" ] || fail "$(tail -n 1 out) KiB resident, more than $limit"
  echo "$(tail -n 1 out) KiB resident"
}

"$2"
echo "$2: passed"
