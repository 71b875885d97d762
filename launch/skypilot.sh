#!/usr/bin/env bash
# A run on whatever cloud SkyPilot finds (pip install skypilot), on spot machines that
# are replaced when they are taken.
#
#   launch/skypilot.sh --job=gpu --name=NAME --config=FILE --workdir=gs://BUCKET/PATH \
#       [-- flags…]
#   launch/skypilot.sh --job=tpu …
#
# The job files are launch/skypilot_gpu.yaml and launch/skypilot_tpu.yaml: edit their
# resources, or give --nodes=N and --accelerators=H100:8. A bucket may be of any store that
# SkyPilot mounts (s3://…). --dry_run prints the command.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
source launch/common.sh
(($#)) || usage
declare -A options=([job]="" [name]="" [config]="" [workdir]="" [nodes]="" [accelerators]="")
parse "$@"
need job name config workdir
[[ "${options[workdir]}" =~ ^([a-z0-9]+://[^/]+)/(.+)$ ]] ||
  fail "--workdir=${options[workdir]} must be gs://BUCKET/PATH, or of another store"
bucket="${BASH_REMATCH[1]}" path="${BASH_REMATCH[2]}"
[[ "${options[job]}" == gpu || "${options[job]}" == tpu ]] || fail "--job=${options[job]} must be gpu or tpu"

printf -v flags '%q ' "${rest[@]}"
more=()
[[ -z "${options[nodes]}" ]] || more+=("--num-nodes=${options[nodes]}")
[[ -z "${options[accelerators]}" ]] || more+=("--gpus=${options[accelerators]}")
((${#rest[@]})) || flags=""
run sky jobs launch --yes "--name=${options[name]}" "${more[@]}" \
  --env "BUCKET=$bucket" --env "RUN=$path" \
  --env "CONFIG=${options[config]}" --env "FLAGS=$flags" \
  "launch/skypilot_${options[job]}.yaml"
