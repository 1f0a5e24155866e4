#!/bin/sh
# Run yamllint, ansible-lint with its strictest profile, and a syntax check of every playbook; run shellcheck on the
# lab's scripts, if it is installed. Needs the environment .venv-ansible.
set -eu

cd "$(dirname -- "$0")/.."
PATH=$PWD/.venv-ansible/bin:$PATH
# yamllint reads files in the locale's encoding.
LC_ALL=C.UTF-8
ANSIBLE_CONFIG=$PWD/ansible/ansible.cfg
export PATH LC_ALL ANSIBLE_CONFIG

yamllint --strict .
ansible-lint --offline -q ansible molecule
(
    cd ansible
    ansible-config validate --type all >/dev/null
    ansible-playbook --syntax-check site.yml playbooks/*.yml >/dev/null
)
if command -v shellcheck >/dev/null; then
    shellcheck --external-sources scripts/lab/*.sh molecule/lab/image/*.sh
fi
