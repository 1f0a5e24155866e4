#!/usr/bin/env bash
# Every test on .venv's Python, then the unit tests on every other Python from 3.9 to 3.13 that this machine has.
# Arguments go to pytest. ONE_PYTHON=1 leaves the other Pythons out.
set -euo pipefail

cd "$(dirname -- "$0")/.."

wanted=(3.9 3.10 3.11 3.12 3.13)
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
summary=()
passed=0 failed=0 skipped=0 broken=0

# The programs that tests run and that no Python package brings.
need_programs() {
    local missing=()
    command -v bwrap >/dev/null || missing+=(bubblewrap)
    command -v chromium >/dev/null || missing+=(chromium)
    [ ${#missing[@]} = 0 ] || scripts/apt-install.sh "${missing[@]}"
}

# Prints the path of a Python of version $1 that runs and can make an environment. A name on the PATH is not enough:
# a version manager's stand-in may only say that the version is not chosen here.
find_python() {
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-${HOME:-/root}/.pyenv}"/versions/"$1".*/bin/python; do
        if "$candidate" -c "import sys, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

count() { # the number before word $1 in pytest's last line, 0 where the word is not there
    grep -oE "[0-9]+ $1" <<<"$last" | grep -oE '^[0-9]+' || echo 0
}

run() { # NAME PYTHON ARGUMENTS...
    local name=$1 python=$2 last status=0
    shift 2
    printf '\n== Python %s\n' "$name"
    "$python" -m pytest "$@" 2>&1 | tee "$logs/$name" || status=$?
    last=$(tail -n 1 "$logs/$name")
    # 5 means that no test was run: nothing was shown then, so it counts as a failure like the others.
    [ "$status" = 0 ] || broken=1
    passed=$((passed + $(count passed)))
    failed=$((failed + $(count failed) + $(count errors?)))
    skipped=$((skipped + $(count skipped)))
    summary+=("Python $name: ${last//=/}")
}

need_programs
own=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
run "$own" .venv/bin/python "$@"

absent=()
for version in "${wanted[@]}"; do
    if [ "$version" = "$own" ] || [ "${ONE_PYTHON:-}" = 1 ]; then
        continue
    fi
    if python=$(find_python "$version"); then
        PYTHON=$python scripts/bootstrap.sh dev ".venv-$version"
        run "$version" ".venv-$version/bin/python" -q -m 'not system' -p no:cacheprovider "$@"
    else
        absent+=("$version")
    fi
done

printf '\n== Summary (all tests on Python %s, unit tests on the others)\n' "$own"
printf '%s\n' "${summary[@]}"
[ ${#absent[@]} = 0 ] || echo "not on this machine: Python ${absent[*]}"
echo "$passed passed, $failed failed, $skipped skipped"
exit "$broken"
