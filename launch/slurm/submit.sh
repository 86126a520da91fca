#!/usr/bin/env bash
# sbatch with the options that this cluster wants: partition, account and the like, from launch/slurm/site.conf.
#   bash launch/slurm/submit.sh [sbatch options] launch/slurm/SCRIPT ARGUMENTS...
# What is given here comes last and wins.
set -uo pipefail
# shellcheck source=launch/cluster.sh
. "$(dirname "${BASH_SOURCE[0]}")/../cluster.sh"
[ $# -ge 1 ] || natsformer_fail 'usage: bash launch/slurm/submit.sh [sbatch options] SCRIPT ARGUMENTS...'
natsformer_site
cd "$natsformer_root" || exit 1 # where the scripts look for launch/slurm/lib.sh
exec sbatch ${site_partition:+--partition="$site_partition"} ${site_account:+--account="$site_account"} \
  "${site_sbatch[@]}" "$@"
