#!/usr/bin/env bash
# Installs this checkout into .venv, on a machine that an engine has just made.
#
#   launch/install.sh EXTRA [gcsfuse]
#
# EXTRA is one of setup.py: tpu or cuda. uv does it and brings a Python where there is no
# new one: images of TPU VMs have 3.10, and no venv. With `gcsfuse` also that, by apt.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
source launch/common.sh
(($#)) || usage

export PATH="$HOME/.local/bin:$PATH"
command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
[[ -x .venv/bin/python ]] || uv venv --quiet --python '>=3.11' .venv
uv pip install --quiet --python .venv/bin/python -e ".[$1]"

if [[ "${2:-}" == gcsfuse ]] && ! command -v gcsfuse >/dev/null; then
  key=/usr/share/keyrings/cloud.google.asc source=https://packages.cloud.google.com/apt
  curl -sSf "$source/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $source gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get update -q
  sudo apt-get install -qy gcsfuse
fi
