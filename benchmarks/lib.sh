# What the comparisons share. To be sourced; from the environment:
#   RANKS     1: each command runs without mpirun
#   PROGRAM   build/release/natsformer
#   STAGE     train or compare does that alone
#   TRAIN, COMPARE   "key=value ...": keys of every training and of the plan, replaced
# shellcheck shell=bash disable=SC2034
# shellcheck source=launch/ranks.sh
. "$(dirname "${BASH_SOURCE[0]}")/../launch/ranks.sh"
ranks=${RANKS:-1} program=${PROGRAM:-$natsformer_root/build/release/natsformer} stage=${STAGE:-all}
read -ra train_settings <<<"${TRAIN:-}"
read -ra compare_settings <<<"${COMPARE:-}"
[ -x "$program" ] || natsformer_fail "no program at $program: cmake --preset release && cmake --build --preset release"
case $stage in all | train | compare) ;; *) natsformer_fail "STAGE: expected train or compare, found '$stage'" ;; esac

# run WHAT ARGUMENTS...: the program; a script that is asked to stop ends here, with 75.
run() {
  local what=$1 status=0
  shift
  natsformer_say "$what"
  if [ "$ranks" = 1 ]; then
    natsformer_watch
    natsformer_supervise "$program" "$@" || status=$?
  else
    natsformer_ranks "$ranks" "$program" "$@" || status=$?
  fi
  [ "$status" -ne 75 ] || exit 75
  [ "$status" -eq 0 ] || natsformer_fail "$what ended with exit code $status"
}

# compare PLAN OUT
compare() {
  run "comparing: $2" compare "$1" --out "$2" "${compare_settings[@]}"
}
