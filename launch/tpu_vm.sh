#!/usr/bin/env bash
# A run on a TPU VM slice, by gcloud alone.
#
#   launch/tpu_vm.sh create --name=NAME --zone=ZONE --type=v5litepod-64 [--spot=true]
#   launch/tpu_vm.sh run    --name=NAME --zone=ZONE --config=FILE --workdir=gs://… [-- flags…]
#   launch/tpu_vm.sh tail   --name=NAME --zone=ZONE [--worker=0]
#   launch/tpu_vm.sh delete --name=NAME --zone=ZONE
#
# Everywhere: --dry_run prints the commands; --project=PROJECT. `create` makes the slice
# and installs this checkout's last commit on all workers; `run` copies it anew, starts the
# run on all workers and returns. After a pre-emption: delete, create, run; it goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
source launch/common.sh
(($#)) || usage
action=$1
shift
declare -A options=([name]="" [zone]="" [project]="" [type]="" [spot]=false
  [version]="" [config]="" [workdir]="" [worker]=0)
parse "$@"
need name zone
where=("--zone=${options[zone]}")
[[ -z "${options[project]}" ]] || where+=("--project=${options[project]}")
tpus=(gcloud compute tpus tpu-vm)

# On all workers, one shell command.
everywhere() {
  run "${tpus[@]}" ssh "${options[name]}" "${where[@]}" --worker=all "--command=$1"
}

copy() {
  local folder archive
  folder=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder of now
  trap "rm -rf '$folder'" EXIT
  archive="$folder/hapo_jax.tar.gz"
  run git archive "--output=$archive" HEAD
  run "${tpus[@]}" scp "$archive" "${options[name]}:hapo_jax.tar.gz" "${where[@]}" --worker=all
  everywhere 'mkdir -p hapo_jax && tar -xzf hapo_jax.tar.gz -C hapo_jax'
}

case "$action" in
  create)
    need type
    # The image that each generation asks for; --version names another.
    version="${options[version]}"
    case "$version${options[type]}" in
      v5litepod-*) version=v2-alpha-tpuv5-lite ;;
      v5p-*) version=v2-alpha-tpuv5 ;;
      v6e-*) version=v2-alpha-tpuv6e ;;
      v4-*) version=tpu-ubuntu2204-base ;;
    esac
    [[ -n "$version" ]] || fail "--type=${options[type]} is not known here; give --version=IMAGE"
    spot=()
    [[ "${options[spot]}" != true ]] || spot=(--spot)
    run "${tpus[@]}" create "${options[name]}" "${where[@]}" \
      "--accelerator-type=${options[type]}" "--version=${options[version]:-$version}" "${spot[@]}"
    copy
    everywhere 'hapo_jax/launch/install.sh tpu gcsfuse'
    ;;
  run)
    need config workdir
    [[ "${options[workdir]}" == gs://* ]] ||
      echo "note: --workdir=${options[workdir]} must be a folder that all workers share" >&2
    copy
    printf -v command '%q ' launch/on_worker.sh tpu "${options[config]}" "${options[workdir]}" "${rest[@]}"
    everywhere "cd hapo_jax && PYTHON=.venv/bin/python nohup $command >../hapo_jax.log 2>&1 </dev/null &"
    ;;
  tail)
    run "${tpus[@]}" ssh "${options[name]}" "${where[@]}" "--worker=${options[worker]}" \
      '--command=tail -n 100 -F hapo_jax.log'
    ;;
  delete)
    run "${tpus[@]}" delete "${options[name]}" "${where[@]}" --quiet
    ;;
  *) usage ;;
esac
