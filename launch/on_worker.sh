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
(($# >= 3)) || {
  sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
  exit 2
}
platform=$1 config=$2 workdir=$3
shift 3

if [[ "$workdir" == gs://* ]]; then
  path="${workdir#gs://}"
  mount="$HOME/hapo_buckets/${path%%/*}"
  mkdir -p "$mount"
  mountpoint -q "$mount" ||
    gcsfuse --implicit-dirs --rename-dir-limit=100000 "${path%%/*}" "$mount"
  workdir="$HOME/hapo_buckets/$path"
fi

python="${PYTHON:-python3}"
flags=$("$python" -m hapo_jax.xla_flags "$platform")
eval "$flags"

child=0 stopped=false
trap 'stopped=true; ((child)) && kill -TERM "$child" 2>/dev/null' TERM INT
restarts="${HAPO_RESTARTS:-3}"
for ((attempt = 0; ; attempt++)); do
  "$python" -m hapo_jax.train "--config=$config" "--workdir=$workdir" "$@" &
  child=$!
  status=0
  # A signal ends `wait` early, while the child still saves.
  while true; do
    status=0
    wait "$child" || status=$?
    kill -0 "$child" 2>/dev/null || break
  done
  if ((status == 0 || status == 2 || attempt >= restarts)) || "$stopped"; then
    exit "$status"
  fi
  echo "status $status: starting again (${attempt} of ${restarts} so far)" >&2
  sleep "${HAPO_RESTART_DELAY_S:-30}"
done
