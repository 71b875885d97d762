#!/usr/bin/env bash
# Trains with several processes on this machine, to try what a run on several hosts does.
#
#   launch/local_multiprocess.sh [--dry_run] N --config=FILE --workdir=DIR [flags…]
#
# N processes run hapo-train with the flags given; on a CPU each of them has
# --config.mesh.cpu_devices devices of its own. DIR may be gs://BUCKET/PATH. Ends with the
# first status that is not 0. SIGTERM and Ctrl-C reach all of them: they save, and the
# same command goes on. PYTHON is the interpreter (default python3).
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

dry_run=false
if [[ "${1:-}" == --dry_run ]]; then
  dry_run=true
  shift
fi
[[ "${1:-}" =~ ^[1-9][0-9]*$ && $# -ge 2 ]] || usage
count=$1
shift
flags=()
for flag in "$@"; do
  [[ "$flag" != --workdir=* ]] || flag="--workdir=$(local_folder "${flag#--workdir=}")"
  flags+=("$flag")
done

python="${PYTHON:-python3}"
# A port that is free now; process 0 listens there a moment later.
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')

pids=()
for ((i = 0; i < count; i++)); do
  command=("$python" -m hapo_jax.train "${flags[@]}"
    "--coordinator=localhost:$port" "--num_processes=$count" "--process_id=$i")
  if "$dry_run"; then
    run "${command[@]}"
    continue
  fi
  "${command[@]}" &
  pids+=($!)
done
"$dry_run" && exit 0

# Ctrl-C reaches the children by itself, as they share the terminal.
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM
trap : INT
first=0
for i in "${!pids[@]}"; do
  wait_for "${pids[i]}"
  ((status)) && echo "process $i of $count ended with status $status" >&2
  ((first)) || first=$status
done
exit "$first"
