#!/bin/sh
# ruff and mypy over everything, and shellcheck over the scripts where it is installed. Needs the development environment.
set -eu

cd "$(dirname -- "$0")/.."
bin=.venv/bin

"$bin/ruff" check .
"$bin/ruff" format --check .
# Each skill's module is called tools.py; named one by one they are checked as skills.<name>.tools.
"$bin/mypy" --strict src tests benchmarks chaos skills/*/tools.py chaos/skills/*/tools.py \
    ansible/roles/pibot_app/files/wheelhouse.py ansible/roles/pibot_firewall/library/pibot_ufw.py molecule/lab/inventory.py
if command -v shellcheck >/dev/null; then
    shellcheck scripts/*.sh .ci/run
fi
