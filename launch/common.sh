# What the launch scripts share; they source it. Bash, shellcheck-clean.
# shellcheck shell=bash

# Prints the comment at the head of the script, and ends.
usage() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

fail() {
  echo "error: $*" >&2
  exit 2
}

# Runs a command, or prints it, quoted, with --dry_run.
run() {
  if "$dry_run"; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

# Waits for a child and sets `status` to its own. A signal ends bash's `wait` early, while
# the child still saves.
# shellcheck disable=SC2034  # `status` is for the caller
wait_for() {
  while true; do
    status=0
    wait "$1" || status=$?
    kill -0 "$1" 2>/dev/null || break
  done
}

# Prints the folder that a workdir is on this machine: gs://BUCKET/PATH is mounted with
# gcsfuse, anything else is one already.
local_folder() {
  local path="${1#gs://}"
  if [[ "$1" != gs://* ]]; then
    echo "$1"
    return
  fi
  local mount="$HOME/hapo_buckets/${path%%/*}"
  if ! mountpoint -q "$mount"; then
    run mkdir -p "$mount" >&2 || return
    run gcsfuse --implicit-dirs --rename-dir-limit=100000 "${path%%/*}" "$mount" >&2 || return
  fi
  echo "$HOME/hapo_buckets/$path"
}

# Reads --dry_run and --key=value for the keys in `options` (an associative array with
# the defaults) into it, and what follows `--` into `rest`, flags for hapo-train.
parse() {
  dry_run=false
  rest=()
  local key
  while (($#)); do
    case "$1" in
      --dry_run) dry_run=true ;;
      --)
        shift
        rest=("$@")
        return
        ;;
      --*=*)
        key="${1%%=*}"
        key="${key#--}"
        [[ -v "options[$key]" ]] ||
          fail "$1 is unknown; there are --dry_run ${!options[*]}, and -- before flags of hapo-train"
        # shellcheck disable=SC2004  # `options` has names for keys, not numbers
        options[$key]="${1#*=}"
        ;;
      *) fail "$1 is not --key=value; flags of hapo-train come behind --" ;;
    esac
    shift
  done
}

# Ends unless each of the options has a value.
need() {
  local key
  for key in "$@"; do
    [[ -n "${options[$key]}" ]] || fail "--$key=… is missing"
  done
}
