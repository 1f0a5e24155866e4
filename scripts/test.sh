#!/usr/bin/env bash
# Every test on .venv's Python, the unit tests on every other one from 3.9 to 3.13 that this machine has, two Pythons at a
# time; the lab beside them from the start, since all of them wait more than they compute. Arguments go to pytest, and then
# only .venv's Python is used, without the lab.
#
#   ONE_PYTHON=1  leaves the other Pythons out
#   NO_LAB=1      leaves the lab out
#   CI=…          what this machine can't run is a failure
set -euo pipefail

cd "$(dirname -- "$0")/.."

wanted=(3.9 3.10 3.11 3.12 3.13)
logs=$(mktemp -d)
lab=
# What runs in the background ignores Ctrl-C by itself, and outlives a step that fails. The lab is a process group of its
# own; its hosts are no processes of ours.
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

# The programs that tests run and that no Python package brings.
need_programs() {
    local missing=()
    command -v bwrap >/dev/null || missing+=(bubblewrap)
    .venv/bin/python -c 'import ctypes; ctypes.CDLL("libseccomp.so.2")' 2>/dev/null || missing+=(libseccomp2)
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

count() { # the number before word $1 in pytest's last line, $2; 0 where the word is not there
    grep -oE "[0-9]+ $1" <<<"$2" | grep -oE '^[0-9]+' || echo 0
}

tally() { # NAME PYTEST'S-LAST-LINE STATUS
    # 5 means that no test was run: nothing was shown then, so it counts as a failure like the others.
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
    ".venv-$1/bin/python" -m pytest -q -m 'not system' -p no:cacheprovider >"$logs/$1" 2>&1 </dev/null &
    unit_tests[$1]=$!
    pending+=("$1")
}

finish_unit_tests() { # the one that was started first
    local name=${pending[0]} status=0
    wait "${unit_tests[$name]}" || status=$?
    pending=("${pending[@]:1}")
    printf '\n== Python %s\n' "$name"
    cat "$logs/$name"
    tally "Python $name" "$(tail -n 1 "$logs/$name")" "$status"
}

start_lab() {
    printf '\n== Lab: started, its report follows below\n'
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
        loud+=("THE LAB WAS NOT RUN, so nothing is shown of the playbook: $(tail -n 1 "$logs/lab")")
        [ -z "${CI:-}" ] || broken=1
        return
    fi
    # One line for each scenario that came as far as its tests.
    while read -r line; do
        tally "Lab" "$line" "$status"
    done < <(grep -oE '=+ [^=]*(passed|failed|error)[^=]* in [0-9.]+s[^=]*=+' "$logs/lab" || echo "no test was run")
    [ "$status" = 0 ] || broken=1
}

# Unit tests on the next of the other Pythons.
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
[ "${NO_LAB:-}" != 1 ] || echo "the lab and the playbook's linters were left out (NO_LAB or arguments)"
[ ${#loud[@]} = 0 ] || printf '\n*** %s\n\n' "${loud[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
exit "$broken"
