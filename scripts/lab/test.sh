#!/usr/bin/env bash
# Runs the playbook's linters, then `molecule test` over every scenario.
#
# Exit status: 0 passed, 1 failed, 3 if this computer can't run the lab; then the last line says why.
set -euo pipefail
# shellcheck source=scripts/lab/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

unable() {
    echo "$*" >&2
    exit 3
}

cd "$LAB_ROOT"
complaint=$(scripts/bootstrap.sh ansible .venv-ansible 2>&1) ||
    unable "$complaint"$'\n'"the environment for Ansible could not be made: $(tail -n 1 <<<"$complaint")"
scripts/lint-ansible.sh

scripts/lab/host.sh || unable "this computer lacks what the lab needs: see above."
scripts/lab/images.sh || unable "the lab's images could not be built: see above."
scripts/lab/podman-conf.sh "$LAB_IMAGE:${LAB_RELEASES[0]}" >/dev/null || unable "podman can't boot the lab's hosts: see above."

export PATH=$LAB_ROOT/.venv-ansible/bin:$PATH PIBOT_LAB=${PIBOT_LAB:-pibot-molecule} COLUMNS=160 NO_COLOR=1
# Remove what an earlier run left that was killed. molecule records its state, so molecule has to remove it.
trap scripts/lab/down.sh EXIT
molecule destroy >/dev/null 2>&1 || scripts/lab/down.sh
molecule test --all
