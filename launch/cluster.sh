# What the scripts for clusters share. To be sourced:
#   natsformer_site                    reads the settings of this cluster, if there are any, and loads its modules
#   natsformer_program                 prints where the program is
#   natsformer_mpirun THREADS          sets the array `launcher` to mpirun with the site's options
#   natsformer_watch                   from here on signals are remembered
#   natsformer_supervise COMMAND...    runs it and passes signals on; the last one is in $natsformer_signal, and the
#                                      steps that this start made in $natsformer_steps ('': not known)
# shellcheck shell=bash
# shellcheck source=launch/install.sh
. "$(dirname "${BASH_SOURCE[0]}")/install.sh"

# The settings are those of launch/slurm/site.conf, or of the file that NATSFORMER_SITE names.
# launch/slurm/site.conf.example explains them.
natsformer_site() {
  local file=${NATSFORMER_SITE:-$natsformer_root/launch/slurm/site.conf}
  site_partition='' site_account='' site_sbatch=() site_modules=() site_interface=''
  site_launcher=srun site_srun=() site_mpirun=()
  if [ -f "$file" ]; then
    # shellcheck source=launch/slurm/site.conf.example
    . "$file" || natsformer_fail "$file: bash cannot read it, or its last command fails"
    natsformer_say "settings of $file"
  elif [ -n "${NATSFORMER_SITE:-}" ]; then
    natsformer_fail "NATSFORMER_SITE: there is no file $file"
  fi
  # '' is an empty list, too.
  [ -n "${site_sbatch[*]}" ] || site_sbatch=()
  [ -n "${site_modules[*]}" ] || site_modules=()
  [ -n "${site_srun[*]}" ] || site_srun=()
  [ -n "${site_mpirun[*]}" ] || site_mpirun=()
  case $site_launcher in srun | mpirun) ;; *)
    natsformer_fail "site_launcher: expected srun or mpirun, found '$site_launcher'" ;;
  esac
  if [ -n "$site_interface" ]; then
    export OMPI_MCA_btl_tcp_if_include=$site_interface OMPI_MCA_oob_tcp_if_include=$site_interface
    export NCCL_SOCKET_IFNAME=$site_interface
  fi
}

# Only where something runs: not where jobs are submitted.
natsformer_modules() {
  [ "${#site_modules[@]}" -gt 0 ] || return 0
  command -v module >/dev/null || natsformer_fail 'site_modules: there is no command module here'
  module load "${site_modules[@]}" || natsformer_fail "cannot load the modules ${site_modules[*]}"
}

natsformer_program() {
  local program=${NATSFORMER:-$natsformer_root/build/release/natsformer}
  [ -x "$program" ] || program=$(command -v natsformer) ||
    natsformer_fail 'there is no program natsformer: build it, or set NATSFORMER'
  echo "$program"
}

# Each rank gets cores of its own, as many as it has threads (THREADS; 0: not known), where mpirun can give them;
# else the system moves the threads over all the cores. site_mpirun may say it otherwise.
natsformer_mpirun() {
  local threads=$1 bound
  launcher=(mpirun -q "${site_mpirun[@]}")
  case " ${site_mpirun[*]} " in *' --bind-to '*) return ;; esac
  bound=(--map-by "slot:PE=$threads" --bind-to core)
  if [ "$threads" -gt 0 ] && "${launcher[@]}" "${bound[@]}" true >/dev/null 2>&1; then
    launcher+=("${bound[@]}")
  else
    launcher+=(--bind-to none)
  fi
}

# What asks to stop is remembered from here on: nothing may end a script before the ranks can save.
natsformer_watch() {
  natsformer_signal='' natsformer_asked_at='' natsformer_pid='' natsformer_heeded='' natsformer_seen=no
  trap 'natsformer_asked USR1' USR1
  trap 'natsformer_asked TERM' TERM
  trap 'natsformer_asked INT' INT
}

# Ctrl-C pressed again ends the ranks at once, also before they heed USR1.
natsformer_asked() {
  local signal=USR1
  natsformer_seen=yes
  natsformer_asked_at=${natsformer_asked_at:-$SECONDS}
  if [ "$1$natsformer_signal" = INTINT ]; then signal=INT; fi
  natsformer_signal=$1
  if [ -n "$natsformer_heeded" ] || [ $signal = INT ]; then
    [ -z "$natsformer_pid" ] || kill -$signal "$natsformer_pid" 2>/dev/null
  fi
}

# Until all ranks have their handlers, USR1 would end mpirun or a rank, or be lost: it is kept until then. The
# program says when (launch/started.h); of one that does not, or that does it on another machine, a minute is enough.
natsformer_wait_started() {
  local from=$SECONDS
  while [ ! -e "$NATSFORMER_STARTED" ] && [ $((SECONDS - from)) -lt 60 ]; do
    kill -0 "$natsformer_pid" 2>/dev/null || return 0
    sleep 0.05
  done
  natsformer_heeded=yes # from here on natsformer_asked passes signals on
  [ -z "$natsformer_signal" ] || kill -USR1 "$natsformer_pid" 2>/dev/null
}

# mpirun would answer TERM by killing its ranks a second later, and batch systems send it to all processes of a
# script: so mpirun does not get to see it, where `env` is new enough.
natsformer_attend() {
  local status shield=(env --block-signal=TERM)
  "${shield[@]}" true 2>/dev/null || shield=()
  # A process group of its own (set -m): the terminal's Ctrl-C must not reach mpirun.
  set -m
  "${shield[@]}" "$@" </dev/null &
  natsformer_pid=$!
  set +m
  natsformer_wait_started
  # A signal that is trapped ends `wait` too: then wait again.
  while natsformer_seen=no; wait "$natsformer_pid"; status=$?; [ "$natsformer_seen" = yes ]; do :; done
  # Killed before it heeded signals: it has trained nothing.
  if [ -n "$natsformer_signal" ] && [ -z "$natsformer_heeded" ] && [ "$status" -gt 128 ]; then status=75; fi
  return "$status"
}

# After natsformer_watch. USR1 and TERM become USR1: every rank stops at the same step, saves, and the whole exits with
# 75; so it does, without a start, when it was asked before. So does Ctrl-C; pressed again it ends them at once.
natsformer_supervise() {
  local folder status=75
  natsformer_steps=0
  if [ -n "$natsformer_signal" ]; then
    natsformer_say "asked to stop ($natsformer_signal) before the start: not starting"
  else
    folder=$(mktemp -d) || natsformer_fail 'there is no room for a temporary folder'
    NATSFORMER_STARTED=$folder/started natsformer_attend "$@"
    status=$?
    # shellcheck disable=SC2034 # for the caller
    natsformer_steps=$(cat "$folder/started" 2>/dev/null)
    rm -rf "$folder"
  fi
  trap - USR1 TERM INT
  return "$status"
}
