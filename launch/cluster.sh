# What the scripts for clusters share. To be sourced:
#   natsformer_site                    reads the settings of this cluster, if there are any, and loads its modules
#   natsformer_program                 prints where the program is
#   natsformer_mpirun THREADS          sets the array `launcher` to mpirun with the site's options
#   natsformer_supervise COMMAND...    runs it and passes signals on; the last one is in $natsformer_signal
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

# USR1 and TERM become USR1: every rank stops at the same step, saves, and the whole exits with 75. So does Ctrl-C;
# pressed again it ends them at once. mpirun would answer TERM by killing its ranks a second later, and batch systems
# send it to all processes of a script: so mpirun does not get to see it, where `env` is new enough.
natsformer_supervise() {
  local pid status seen ctrl_c=USR1 shield=(env --block-signal=TERM)
  "${shield[@]}" true 2>/dev/null || shield=()
  # shellcheck disable=SC2034 # for the caller
  natsformer_signal=''
  # A process group of its own (set -m): the terminal's Ctrl-C must not reach mpirun.
  set -m
  "${shield[@]}" "$@" </dev/null &
  pid=$!
  set +m
  trap 'seen=yes; natsformer_signal=USR1; kill -USR1 "$pid" 2>/dev/null' USR1
  trap 'seen=yes; natsformer_signal=TERM; kill -USR1 "$pid" 2>/dev/null' TERM
  trap 'seen=yes; natsformer_signal=INT; kill -"$ctrl_c" "$pid" 2>/dev/null; ctrl_c=INT' INT
  # A signal that is trapped ends `wait` too: then wait again.
  while seen=no; wait "$pid"; status=$?; [ "$seen" = yes ]; do :; done
  trap - USR1 TERM INT
  return "$status"
}
