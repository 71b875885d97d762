#!/usr/bin/env bash
# A run on a GKE cluster with TPU node pools, through XPK (pip install xpk).
#
#   launch/gke_xpk.sh --cluster=CLUSTER --name=NAME --type=v5litepod-64 \
#       --image=IMAGE --config=FILE --workdir=gs://… [--slices=1] [-- flags…]
#
# IMAGE is a base image with Python 3.11 or newer and gcsfuse, on top of which XPK puts
# this checkout. --project=PROJECT, --zone=ZONE, --priority=medium; --dry_run prints the
# command. XPK starts the run anew after a failure or a pre-emption; it goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
source launch/common.sh
(($#)) || usage
declare -A options=([cluster]="" [name]="" [type]="" [image]="" [config]="" [workdir]=""
  [slices]=1 [project]="" [zone]="" [priority]=medium [restarts]=10)
parse "$@"
need cluster name type image config workdir

printf -v train '%q ' launch/on_worker.sh tpu "${options[config]}" "${options[workdir]}" "${rest[@]}"
where=()
[[ -z "${options[project]}" ]] || where+=("--project=${options[project]}")
[[ -z "${options[zone]}" ]] || where+=("--zone=${options[zone]}")
run xpk workload create \
  "--cluster=${options[cluster]}" "--workload=${options[name]}" \
  "--tpu-type=${options[type]}" "--num-slices=${options[slices]}" \
  "--priority=${options[priority]}" "--max-restarts=${options[restarts]}" \
  "--base-docker-image=${options[image]}" --script-dir=. "${where[@]}" \
  "--command=pip install -q -e '.[tpu]' && exec $train"
