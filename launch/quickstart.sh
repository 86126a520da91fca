#!/usr/bin/env bash
# From nothing to a trained model: installs, builds, prepares text, trains a dense transformer and one whose
# attention mask is learned on 2 MPI ranks, and compares them. About five minutes on two cores.
#   bash launch/quickstart.sh                  on the licence texts of this machine
#   bash launch/quickstart.sh FILES...         on your own .txt, .jsonl or .jsonl.zst files
# Stopped (Ctrl-C) and started again, it goes on where it was. Everything lands in runs/quickstart*.
set -euo pipefail
# shellcheck source=launch/ranks.sh
. "$(dirname "${BASH_SOURCE[0]}")/ranks.sh"

case ${1:-} in
-h | --help)
  sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 0
  ;;
esac

# ---- the run folder: one for the licence texts, one for each set of files
files=()
for file in "$@"; do
  [ -r "$file" ] || natsformer_fail "$file: cannot be read"
  files+=("$(realpath "$file")")
done
cd "$natsformer_root"
run=runs/quickstart
if [ ${#files[@]} -gt 0 ]; then
  run=runs/quickstart-$(cat "${files[@]}" | sha256sum | cut -c 1-8)
fi
natsformer=build/release/natsformer

natsformer_install program
started=$SECONDS
tests=OFF
! natsformer_has_package libcriterion-dev || tests=ON # does not turn the tests of a developer's build off
natsformer_build release "$tests" natsformer
natsformer_say "built in $((SECONDS - started)) s"

ranks=2
[ "$(natsformer_cores)" -ge 2 ] || ranks=1

# ---- text

# Copies the machine's licence texts to $run/text: UTF-8, every text once, none so long that it outweighs the
# others, about 3 MB in all. In the order of their hashes, a fixed shuffle.
collect_licences() {
  local most=3000000 bytes=0 count=0 file sum previous=''
  rm -rf "$run/text"
  mkdir -p "$run/text"
  while read -r sum file && [ "$bytes" -lt "$most" ]; do
    if [ "$sum" != "$previous" ] && iconv -f UTF-8 -t UTF-8 "$file" >/dev/null 2>&1; then
      count=$((count + 1))
      bytes=$((bytes + $(stat -c %s "$file")))
      cp "$file" "$run/text/$(printf '%04d' "$count").txt"
    fi
    previous=$sum
  done < <(find /usr/share/common-licenses /usr/share/doc -type f -size +0 -size -200k \
    \( -path '/usr/share/common-licenses/*' -o -name copyright \) -exec sha256sum {} + | LC_ALL=C sort)
  [ "$count" -gt 1 ] || natsformer_fail "no licence texts under /usr/share: give text files as arguments"
  natsformer_say "text: $count licence texts of /usr/share/common-licenses and /usr/share/doc, $((bytes / 1000)) kB"
}

# A single text is one document, which cannot be split into training and validation: cut it between lines.
cut_single_text() {
  rm -rf "$run/text"
  mkdir -p "$run/text"
  split -n l/20 -d --additional-suffix=.txt "$1" "$run/text/"
  find "$run/text" -empty -delete
}

if [ ! -f "$run/data/manifest.json" ]; then
  if [ ${#files[@]} -eq 0 ]; then
    collect_licences
    files=("$run"/text/*.txt)
  elif [ ${#files[@]} -eq 1 ] && [[ ${files[0]} == *.txt ]]; then
    cut_single_text "${files[0]}"
    files=("$run"/text/*.txt)
  fi
  "$natsformer" data build --tokenizer byte --val 0.1 --out "$run/data" "${files[@]}"
fi

# ---- training: the same configuration twice

# train NAME [key=value ...]
train() {
  local name=$1 status=0
  shift
  natsformer_say "training $name"
  natsformer_ranks "$ranks" "$natsformer" train configs/quickstart.yaml run="$run/$name" data.path="$run/data" \
    "$@" --json >"$run/$name.json" || status=$?
  if [ "$status" -eq 75 ]; then
    natsformer_say "stopped after a checkpoint; the same command goes on from there"
    exit 75
  fi
  [ "$status" -eq 0 ] || natsformer_fail "training $name ended with exit code $status"
}
train dense model.attention=dense
train nats

# ---- evaluation: loss and KV fraction of the whole validation split, cache bytes of real decoding

# number KEY FILE: the value of a key of a JSON object
number() {
  sed -n "s/.*\"$1\": *\([-+0-9.eE]*\).*/\1/p" "$2" | head -n 1
}

evaluate() {
  mkdir -p "$run/$1/eval"
  natsformer_ranks "$ranks" "$natsformer" eval "$run/$1" --json >"$run/$1/eval/parallel.json" 2>>"$run/eval.log"
  natsformer_ranks "$ranks" "$natsformer" eval "$run/$1" --mode decode --samples 8 --json \
    >"$run/$1/eval/decode.json" 2>>"$run/eval.log"
}
natsformer_say "evaluating both"
for name in dense nats; do
  evaluate "$name" || natsformer_fail "evaluating $run/$name failed: $run/eval.log"
done

# ---- plots of both runs

plot() {
  mkdir -p "$run/plots"
  gnuplot >"$run/plots/gnuplot.log" 2>&1 <<GNUPLOT
set terminal png size 960,600
set datafile missing 'NaN'
set grid
set xlabel 'step'
set output '$run/plots/loss.png'
set ylabel 'training loss (nats per byte)'
plot '$run/dense/plots/metrics.tsv' using 1:2 with lines lw 4 lc rgb '#ccbb44' title 'dense', \
     '$run/nats/plots/metrics.tsv' using 1:2 with lines lc rgb '#4477aa' title 'NAtS'
set output '$run/plots/kv_fraction.png'
set ylabel 'KV fraction'
set yrange [0:1.05]
plot '$run/dense/plots/metrics.tsv' using 1:4 with lines lw 4 lc rgb '#ccbb44' title 'dense', \
     '$run/nats/plots/metrics.tsv' using 1:4 with lines lc rgb '#4477aa' title 'NAtS'
GNUPLOT
}

# ---- what came out

row() {
  local folder=$run/$1
  LC_ALL=C printf '%-8s %10.4f %12.4f %12.4f %14.0f %10.0f\n' "$1" \
    "$(number loss "$folder/eval/parallel.json")" "$(number bits_per_byte "$folder/eval/parallel.json")" \
    "$(number kv_fraction "$folder/eval/parallel.json")" "$(number kv_bytes "$folder/eval/decode.json")" \
    "$(awk -v tokens="$(number tokens "$folder.json")" -v seconds="$(number seconds "$folder.json")" \
      'BEGIN { print (seconds > 0 ? tokens / seconds : 0) }')"
}

echo
printf '%-8s %10s %12s %12s %14s %10s\n' model loss 'bits/byte' 'KV fraction' 'cache bytes' 'tokens/s'
row dense
row nats
echo 'loss: validation, nats per byte; cache bytes: of one sequence at its peak, while decoding; tokens/s: training'
echo
if plot; then
  echo "plots: $run/plots/loss.png"
  echo "       $run/plots/kv_fraction.png"
else
  natsformer_say "warning: no plots: $run/plots/gnuplot.log tells why"
fi
echo
prompt='The '
echo "a sample of the NAtS model, after \"$prompt\":"
OMP_NUM_THREADS=$(natsformer_cores) "$natsformer" generate "$run/nats" --prompt "$prompt" --tokens 300 \
  --temperature 0.7 --seed 1 2>>"$run/eval.log" | fold -s -w 100 | sed 's/^/  | /'
cat <<NEXT

$((SECONDS - started)) s after the packages. What to try next:
  $natsformer generate $run/nats --prompt 'Permission is '       more text
  $natsformer eval $run/nats --policy window --policy nats        other eviction policies on the same model
  $natsformer train --help-config                                 every key of the configuration
  bash launch/ranks.sh 2 $natsformer train configs/quickstart.yaml run=runs/mine data.path=$run/data \\
    nats.lambda=0.3 train.steps=2000                              a smaller cache, a longer run
  bash launch/quickstart.sh FILES...                              your own text
NEXT
