#!/usr/bin/env bash
# A run on GPU nodes of a Slurm cluster.
#
#   launch/slurm.sh --nodes=4 --gpus=8 --config=FILE --workdir=DIR [-- flags…]
#
# DIR is on a file system that all nodes see, or gs://BUCKET/PATH; then the job's log is
# here. --name=NAME, --time=24:00:00,
# --partition=P, --account=A; --dry_run prints the command. The job is launch/slurm.sbatch;
# it is queued again after a pre-emption and when its time is over, and goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
source launch/common.sh
(($#)) || usage
declare -A options=([nodes]=1 [gpus]=8 [config]="" [workdir]="" [name]=hapo
  [time]=24:00:00 [partition]="" [account]="")
parse "$@"
need config workdir
where=()
[[ -z "${options[partition]}" ]] || where+=("--partition=${options[partition]}")
[[ -z "${options[account]}" ]] || where+=("--account=${options[account]}")
logs="${options[workdir]}"
if [[ "$logs" == gs://* ]]; then
  logs="$PWD"
else
  run mkdir -p "$logs"
fi
run sbatch "--job-name=${options[name]}" "--nodes=${options[nodes]}" \
  "--gpus-per-node=${options[gpus]}" "--time=${options[time]}" "${where[@]}" \
  "--output=$logs/slurm-%j.log" --open-mode=append \
  launch/slurm.sbatch "${options[config]}" "${options[workdir]}" "${rest[@]}"
