#!/usr/bin/env bash
# Trains with several processes on this machine, to try what a run on several hosts does.
#
#   launch/local_multiprocess.sh [--dry_run] N --config=FILE --workdir=DIR [flags…]
#
# N processes run hapo-train with the flags given; on a CPU each of them has
# --config.mesh.cpu_devices devices of its own. Ends with the first status that is not
# 0. SIGTERM and Ctrl-C reach all of them: they save, and the same command goes on.
# PYTHON is the interpreter (default python3).
set -euo pipefail

usage() {
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

dry_run=false
if [[ "${1:-}" == --dry_run ]]; then
  dry_run=true
  shift
fi
[[ "${1:-}" =~ ^[1-9][0-9]*$ && $# -ge 2 ]] || usage
count=$1
shift

python="${PYTHON:-python3}"
# A port that is free now; process 0 listens there a moment later.
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')

pids=()
for ((i = 0; i < count; i++)); do
  command=("$python" -m hapo_jax.train "$@"
    "--coordinator=localhost:$port" "--num_processes=$count" "--process_id=$i")
  if "$dry_run"; then
    printf '%q ' "${command[@]}"
    printf '\n'
    continue
  fi
  "${command[@]}" &
  pids+=($!)
done
"$dry_run" && exit 0

# Ctrl-C reaches the children by itself, as they share the terminal.
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM
trap : INT
status=0
for i in "${!pids[@]}"; do
  while true; do
    code=0
    wait "${pids[i]}" || code=$?
    # A signal ends `wait` early, while the child still saves.
    kill -0 "${pids[i]}" 2>/dev/null || break
  done
  ((code)) && echo "process $i of $count ended with status $code" >&2
  ((status)) || status=$code
done
exit "$status"
