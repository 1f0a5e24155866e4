#!/bin/sh
# Resolve the requirements again, for all platforms and every Python from 3.9 on, with the hashes of all files.
#
#   scripts/lock.sh            keep the locked versions that still fit
#   scripts/lock.sh --upgrade  take the newest versions
set -eu

cd "$(dirname -- "$0")/.."
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools"
"$tools/bin/python" -m pip install -qq --disable-pip-version-check uv

# --no-config and --no-emit-index-url: the machine's own settings, such as an index, must not get into a lock.
lock() {
    output=$1
    shift
    echo "Locking $output ..."
    UV_CUSTOM_COMPILE_COMMAND='make lock' "$tools/bin/uv" --no-config pip compile --quiet --universal \
        --python-version "$oldest" --only-binary :all: --generate-hashes --no-emit-index-url "$@" -o "requirements/$output"
}

oldest=3.9

# Each lock is constrained by the one before, so that a package has the same version in all of them.
lock runtime.txt "$@" pyproject.toml
lock openai.txt "$@" -c requirements/runtime.txt --extra openai pyproject.toml
lock dev.txt "$@" -c requirements/openai.txt --extra openai pyproject.toml requirements/dev.in
lock build.txt "$@" -c requirements/dev.txt requirements/build.in
lock bench.txt "$@" requirements/bench.in

# Two servers for the tests, which have no packages for an older Python.
oldest=3.10
lock llama.txt "$@" requirements/llama.in
lock litellm.txt "$@" requirements/litellm.in

# Ansible runs on the control computer, and needs a newer Python there.
oldest=3.11
lock ansible.txt "$@" requirements/ansible.in
