#!/usr/bin/env bash
# Trains on this worker; the launch scripts start it on every one.
#
#   launch/on_worker.sh PLATFORM CONFIG WORKDIR [flags of hapo-train…]
#
# PLATFORM is cpu, gpu or tpu. WORKDIR is a folder that all workers share, or
# gs://BUCKET/PATH, which is mounted with gcsfuse. A run that fails is started again,
# HAPO_RESTARTS times (default 3), and goes on from its last checkpoint; one that is
# refused (status 2) is not. SIGTERM makes it save and end.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
(($# >= 3)) || usage
dry_run=false
platform=$1 config=$2 workdir=$3
shift 3

workdir=$(local_folder "$workdir")
python="${PYTHON:-python3}"
flags=$("$python" -m hapo_jax.system.xla_flags "$platform")
eval "$flags"

stopped=false
trap 'stopped=true; kill -TERM "${child:-}" 2>/dev/null || true' TERM INT
restarts="${HAPO_RESTARTS:-3}"
for ((attempt = 0; ; attempt++)); do
  "$python" -m hapo_jax.train "--config=$config" "--workdir=$workdir" "$@" &
  child=$!
  wait_for "$child"
  if ((status == 0 || status == 2 || attempt >= restarts)) || "$stopped"; then
    exit "$status"
  fi
  echo "status $status: starting again (${attempt} of ${restarts} so far)" >&2
  failed=$status
  sleep "${HAPO_RESTART_DELAY_S:-30}" &
  child=$!
  wait_for "$child"
  "$stopped" && exit "$failed"
done
