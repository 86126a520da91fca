# A Slurm of this machine alone, for slurm_test.sh: two virtual nodes, n1 and n2, of two CPUs and two pretended GPUs
# each, in $work/slurm, on free ports, without munge, cgroups or systemd. To be sourced after train_lib.sh.
# shellcheck shell=bash disable=SC2154
slurm=$work/slurm
unset "${!SLURM_@}" "${!SBATCH_@}" 2>/dev/null
export SLURM_CONF=$slurm/slurm.conf
daemons=()

# The first of $1 free ports in a row.
free_ports() {
  local first port
  for _ in $(seq 100); do
    first=$((20000 + RANDOM % 10000))
    for ((port = first; port < first + $1; port++)); do
      ! (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || continue 2
    done
    echo "$first"
    return
  done
  fail 'no free ports'
}

slurm_settings() {
  local host user port
  host=$(hostname -s) user=$(id -un) port=$(free_ports 3)
  mkdir -p "$slurm"/{state,spool-n1,spool-n2,tmp-n1,tmp-n2}
  cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/none
CredType=cred/none
StateSaveLocation=$slurm/state
SlurmdSpoolDir=$slurm/spool-%n
SlurmctldPidFile=$slurm/slurmctld.pid
SlurmdPidFile=$slurm/%n.pid
SlurmctldPort=$port
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
MpiDefault=pmix
ReturnToService=2
KillWait=10
SlurmdParameters=config_overrides
TmpFS=$slurm/tmp-%n
GresTypes=gpu
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=2 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=2 Gres=gpu:2 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
  touch "$slurm"/gpu{0,1}
  echo "Name=gpu File=$slurm/gpu[0-1]" >"$slurm/gres.conf"
  # From 23.11 on slurmd looks for cgroups unless told not to; older ones do not know the setting.
  case $(sinfo --version) in *' 2'[0-2].* | *' 23.02'*) ;; *)
    echo 'CgroupPlugin=disabled' >"$slurm/cgroup.conf" ;;
  esac
}

start_slurm() {
  local program node
  for program in slurmctld slurmd sbatch srun; do
    if ! command -v "$program" >/dev/null; then
      echo "$name: skipped: there is no $program (packages slurmctld slurmd slurm-client)"
      exit 77
    fi
  done
  slurm_settings
  trap 'stop_slurm; clean_up' EXIT
  slurmctld -D >"$slurm/slurmctld.log" 2>&1 &
  daemons+=($!)
  for node in n1 n2; do
    slurmd -D -N "$node" >"$slurm/$node.log" 2>&1 &
    daemons+=($!)
  done
  for _ in $(seq 300); do
    [ "$(sinfo -h -N -t idle -o %N 2>/dev/null | wc -l)" -lt 2 ] || return 0
    kill -0 "${daemons[@]}" 2>/dev/null || break
    sleep 0.1
  done
  grep -h 'error\|fatal' "$slurm"/*.log | grep -v state | tail -n 20
  fail 'Slurm did not start: see the lines above'
}

stop_slurm() {
  local pid
  scancel --user="$(id -un)" 2>/dev/null
  for _ in $(seq 150); do
    [ -n "$(squeue -h 2>/dev/null)" ] || break
    sleep 0.1
  done
  for pid in "${daemons[@]}"; do
    kill "$pid" 2>/dev/null
  done
  for _ in $(seq 50); do
    kill -0 "${daemons[@]}" 2>/dev/null || break
    sleep 0.1
  done
  for pid in "${daemons[@]}"; do
    kill -9 "$pid" 2>/dev/null
  done
  wait "${daemons[@]}" 2>/dev/null
}

# submit ARGUMENTS...: as a person does; the job's number in $job, its output in $log.
submit() {
  log=$work/job-$RANDOM.log
  job=$(bash "$root/launch/slurm/submit.sh" --parsable --output="$log" "$@" 2>"$work/submit") ||
    fail "sbatch refused $*: $(cat "$work/submit")"
}

# job_state: PENDING, RUNNING, COMPLETED, ...
job_state() {
  scontrol show job "$job" 2>/dev/null | sed -nE 's/.*JobState=([A-Z_]+).*/\1/p' | sort -u | tr '\n' ' '
}

start_queued() {
  local task
  for task in $(squeue -h -r -j "$job" -t PENDING -o %i); do
    scontrol update JobId="$task" StartTime=now 2>/dev/null
  done
}

# wait_for_job STATE: until it has ended. What was requeued starts after two seconds instead of two minutes: sooner,
# and slurmd takes it for the job that it has just been told to end ("Job credential revoked").
wait_for_job() {
  local state='' queued=''
  for _ in $(seq 600); do
    state=$(job_state)
    case $state in
    *PENDING*)
      queued=${queued:-$SECONDS}
      if [ $((SECONDS - queued)) -ge 3 ]; then
        start_queued
        queued=''
      fi
      ;;
    *RUNNING* | *COMPLETING* | *CONFIGURING* | *REQUEUED*) ;;
    "$1 ") return ;;
    *)
      grep "JobId=$job" "$slurm/slurmctld.log" | tail -n 20
      fail "job $job ended as $state"
      ;;
    esac
    sleep 0.1
  done
  fail "job $job is still $state after a minute"
}

# wait_for_job_step RUN STEP
wait_for_job_step() {
  for _ in $(seq 600); do
    [ "$(steps "$1")" -lt "$2" ] || return 0
    case $(job_state) in *FAILED* | *COMPLETED* | *CANCELLED*) fail "job $job ended before step $2" ;; esac
    sleep 0.05
  done
  fail "step $2 not reached within 30 s"
}

# wait_for_job_line TEXT
wait_for_job_line() {
  for _ in $(seq 600); do
    ! grep -q -- "$1" "$log" 2>/dev/null || return 0
    case $(job_state) in *FAILED* | *COMPLETED* | *CANCELLED*) fail "job $job ended without a line with '$1'" ;; esac
    sleep 0.1
  done
  fail "no line with '$1' within a minute"
}
