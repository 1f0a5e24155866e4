#!/usr/bin/env bash
# Run every test on .venv's Python, and the unit tests on every other Python from 3.9 to 3.13 that this machine has, two
# Pythons at a time: on the oldest and the newest all of them, on those between without the slow ones. The lab runs in
# parallel, since tests wait more than they compute. With arguments, which go to pytest, run only .venv's Python and not
# the lab.
#
#   ONE_PYTHON=1  leave out the other Pythons
#   NO_LAB=1      leave out the lab
#   CI=…          count what this machine can't run as a failure
set -euo pipefail

cd "$(dirname -- "$0")/.."

wanted=(3.9 3.10 3.11 3.12 3.13)
logs=$(mktemp -d)
lab=
# Background jobs ignore Ctrl-C, and continue after this script fails, so end them. The lab has its own process group, and
# its hosts are not our child processes.
# shellcheck disable=SC2317 # the traps call it
stop_all() {
    # shellcheck disable=SC2046 # one argument for each process
    kill -TERM $(jobs -p) || true
    if [ -n "$lab" ]; then
        kill -TERM -- "-$lab" || true
        wait
        PIBOT_LAB=${PIBOT_LAB:-pibot-molecule} scripts/lab/down.sh >/dev/null || true
        lab=
    fi
    wait
} 2>/dev/null
trap 'stop_all; rm -rf "$logs"' EXIT
trap 'exit 130' INT TERM
summary=()
loud=()
passed=0 failed=0 skipped=0 broken=0

# Install the programs that tests need and that no Python package contains.
need_programs() {
    local missing=()
    command -v bwrap >/dev/null || missing+=(bubblewrap)
    .venv/bin/python -c 'import ctypes; ctypes.CDLL("libseccomp.so.2")' 2>/dev/null || missing+=(libseccomp2)
    command -v chromium >/dev/null || missing+=(chromium)
    [ ${#missing[@]} = 0 ] || scripts/apt-install.sh "${missing[@]}"
}

# Print the path of a Python of version $1 that can make an environment. A name on the PATH is not enough: it may be a
# version manager's shim for a version that is not installed.
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

count() { # print the number before word $1 in pytest's last line $2, or 0 without that word
    grep -oE "[0-9]+ $1" <<<"$2" | grep -oE '^[0-9]+' || echo 0
}

tally() { # NAME PYTEST'S-LAST-LINE STATUS
    # Status 5 means that no test ran, which counts as a failure too.
    [ "$3" = 0 ] || broken=1
    passed=$((passed + $(count passed "$2")))
    failed=$((failed + $(count failed "$2") + $(count errors? "$2")))
    skipped=$((skipped + $(count skipped "$2")))
    summary+=("$1: ${2//=/}")
}

run() { # NAME PYTHON ARGUMENTS...
    local name=$1 python=$2 status=0
    shift 2
    printf '\n== Python %s\n' "$name"
    "$python" -m pytest "$@" 2>&1 | tee "$logs/$name" || status=$?
    tally "Python $name" "$(tail -n 1 "$logs/$name")" "$status"
}

declare -A unit_tests
start_unit_tests() { # VERSION
    local which='not system and not slow'
    case $1 in "${wanted[0]}" | "${wanted[-1]}") which='not system' ;; esac
    PIBOT_TEST_REPEATED=1 ".venv-$1/bin/python" -m pytest -q -m "$which" -p no:cacheprovider >"$logs/$1" 2>&1 </dev/null &
    unit_tests[$1]=$!
    pending+=("$1")
}

finish_unit_tests() { # of the Python that was started first
    local name=${pending[0]} status=0
    wait "${unit_tests[$name]}" || status=$?
    pending=("${pending[@]:1}")
    printf '\n== Python %s\n' "$name"
    cat "$logs/$name"
    tally "Python $name" "$(tail -n 1 "$logs/$name")" "$status"
}

start_lab() {
    printf '\n== Lab: started, its report comes at the end\n'
    setsid scripts/lab/test.sh >"$logs/lab" 2>&1 </dev/null &
    lab=$!
}

finish_lab() {
    local status=0 line
    wait "$lab" || status=$?
    lab=
    printf '\n== Lab\n'
    cat "$logs/lab"
    if [ "$status" = 3 ]; then
        loud+=("THE LAB DID NOT RUN, so the playbook is not tested: $(tail -n 1 "$logs/lab")")
        [ -z "${CI:-}" ] || broken=1
        return
    fi
    # pytest prints one such line for each scenario that got to its tests.
    while read -r line; do
        tally "Lab" "$line" "$status"
    done < <(grep -oE '=+ [^=]*(passed|failed|error)[^=]* in [0-9.]+s[^=]*=+' "$logs/lab" || echo "no test ran")
    [ "$status" = 0 ] || broken=1
}

# Start the unit tests on the next Python in the queue.
start_next() {
    [ ${#queue[@]} -gt 0 ] || return 0
    local version=${queue[0]}
    queue=("${queue[@]:1}")
    PYTHON=${pythons[$version]} scripts/bootstrap.sh dev ".venv-$version"
    start_unit_tests "$version"
}

need_programs
own=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ $# = 0 ] || ONE_PYTHON=1 NO_LAB=1
declare -A pythons
absent=() queue=() pending=()
for version in "${wanted[@]}"; do
    if [ "$version" = "$own" ] || [ "${ONE_PYTHON:-}" = 1 ]; then
        continue
    fi
    if pythons[$version]=$(find_python "$version"); then
        queue+=("$version")
    else
        absent+=("$version")
    fi
done

[ "${NO_LAB:-}" = 1 ] || start_lab
start_next
run "$own" .venv/bin/python "$@"
start_next
while [ ${#pending[@]} -gt 0 ]; do
    finish_unit_tests
    start_next
done
[ -z "$lab" ] || finish_lab

printf '\n== Summary (all tests on Python %s, unit tests on the others)\n' "$own"
printf '%s\n' "${summary[@]}"
[ ${#absent[@]} = 0 ] || echo "not on this machine: Python ${absent[*]}"
[ "${NO_LAB:-}" != 1 ] || echo "left out: the lab and the playbook's linters (NO_LAB or arguments)"
[ ${#loud[@]} = 0 ] || printf '\n*** %s\n\n' "${loud[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
exit "$broken"
