#!/usr/bin/env bash
# Associative recall against the size of the cache, from nothing: a recall task and, for every seed, models trained on
# it (dense; NAtS at two prices of the cache; a window from scratch) and compared under every policy. Tables and plots
# of each seed in OUT/SEED/results, means over the seeds in OUT/seeds.md. About five minutes a seed on two cores.
#   [SEEDS="1 2 3"] [OUT=runs/recall] bash benchmarks/recall.sh
# benchmarks/lib.sh has the other settings. Stopped and started again, it goes on where it was.
set -euo pipefail
# shellcheck source=benchmarks/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
out=${OUT:-$natsformer_root/runs/recall}
read -ra seeds <<<"${SEEDS:-1 2 3}"

mkdir -p "$out"
[ -f "$out/data/manifest.json" ] || "$program" data synth mqar --out "$out/data" --pairs 4 --queries 24 \
  --length 64 --window 4 --vocab 64 --samples 100000 --val-samples 512

train() { # SEED NAME SETTINGS...
  run "training $2 with seed $1" train "$natsformer_root/configs/mqar.yaml" run="$out/$1/$2" data.path="$out/data" \
    seed="$1" "${@:3}" "${train_settings[@]}"
}

# Pages of 2 tokens: in pages of 16 a cache of 64 tokens has four sizes.
compare_seed() { # SEED
  cat >"$out/$1/plan.yaml" <<PLAN
seeds: [1, 2, 3]
models:
  - {name: dense, run: $out/$1/dense, trained: dense, text: false}
  - {name: nats-0.1, run: $out/$1/nats-0.1, trained: nats, text: false}
  - {name: nats-1, run: $out/$1/nats-1, trained: nats, text: false}
  - {name: window, run: $out/$1/window, trained: window, text: false}
policies:
  - streaming
  - streaming:reassign=0
  - h2o
  - tova
  - cam
  - random
  - window
  - {policy: "duo:recent=4", models: [nats-1]}
budgets: [0.125, 0.25, 0.5]
match: [nats-1]
batch: 64
page_tokens: 2
tasks:
  - {name: mqar, data: $out/data, models: [dense, nats-0.1, nats-1, window]}
PLAN
  compare "$out/$1/plan.yaml" "$out/$1/results"
}

for seed in "${seeds[@]}"; do
  if [ "$stage" != compare ]; then
    train "$seed" dense model.attention=dense
    train "$seed" nats-0.1 nats.lambda=0.1
    train "$seed" nats-1 nats.lambda=1
    train "$seed" window model.attention=window
  fi
  [ "$stage" = train ] || compare_seed "$seed"
done

[ "$stage" != train ] || exit 0
"${PYTHON:-python3}" "$natsformer_root/benchmarks/seeds.py" "${seeds[@]/#/$out/}" >"$out/seeds.md"
natsformer_say "means over seeds: $out/seeds.md; tables and plots: $out/SEED/results"
