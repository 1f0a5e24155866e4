#!/bin/sh
# Make a virtual environment from a hash-locked requirements file, with this checkout's package in it.
#
#   scripts/bootstrap.sh runtime|openai|dev|bench|ansible [FOLDER]
#
# FOLDER is .venv by default. Nothing is done where it is up to date already; what was left half made, or fits no more,
# is made anew. PYTHON names the interpreter to use; by default it is python3, or the newest python3.x that will do.
set -eu

lock=${1:?usage: scripts/bootstrap.sh runtime|openai|dev|bench|ansible [FOLDER]}
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
cd "$root"
venv=${2:-.venv}

fail() {
    echo "bootstrap: $*" >&2
    exit 1
}

# What an environment must have been made from. The path counts too: an environment cannot be moved.
fingerprint() {
    { cat "requirements/$1.txt" scripts/bootstrap.sh && echo "$root"; } | sha256sum | cut -d ' ' -f 1
}

is_current() {
    [ -f "$venv/.made-from" ] || return 1
    made_from=$(cat "$venv/.made-from")
    "$venv/bin/python" -c '' 2>/dev/null || return 1
    [ "$made_from" = "$(fingerprint "$lock")" ] && return 0
    # The development environment holds the runtime's requirements, at the same versions.
    case $lock in runtime | openai) [ "$made_from" = "$(fingerprint dev)" ] ;; *) return 1 ;; esac
}

# A node's Python may be older than what Ansible wants on the computer that it runs on.
case $lock in
    ansible) what=Ansible oldest=3.11 ;;
    *) what=PiBot oldest=3.9 ;;
esac

is_new_enough() {
    "$1" -c "import sys; sys.exit(sys.version_info < (3, ${oldest#3.}))" 2>/dev/null
}

find_python() {
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python3.9}; do
        if is_new_enough "$candidate"; then
            python=$candidate
            return
        fi
    done
    wanted=${PYTHON:-python3}
    found=$("$wanted" -c 'import sys; sys.stdout.write("%d.%d" % sys.version_info[:2])' 2>/dev/null) || found=
    if [ -n "$found" ]; then
        fail "$what needs Python $oldest or newer and $wanted is $found: install a newer one, or name it with PYTHON=python3.x"
    fi
    fail "$what needs Python $oldest or newer and $wanted does not run: install python3, or name another with PYTHON=python3.x"
}

make_venv() {
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    # Debian and Ubuntu keep ensurepip, without which no environment gets a pip, in a package of its own.
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        scripts/apt-install.sh "python$version-venv" ||
            fail "$python cannot make a virtual environment until its ensurepip is installed (the package named above)"
    fi
    echo "Making $venv with Python $version from requirements/$lock.txt ..." >&2
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-input \
        --require-hashes --only-binary=:all: -r "requirements/$lock.txt" ||
        fail "the packages of requirements/$lock.txt could not be installed; see above, then run this again"
}

# The checkout's own package, without building anything: its source on the path, and the command.
add_package() {
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "$root/src" >"$site/pibot.pth"
    cat >"$venv/bin/pibot" <<'EOF'
#!/bin/sh
exec "$(dirname "$(readlink -f "$0")")/python" -m pibot "$@"
EOF
    chmod +x "$venv/bin/pibot"
}

[ -f "requirements/$lock.txt" ] || fail "there is no requirements/$lock.txt"
if is_current; then
    exit 0
fi

# Two at once would spoil each other's work; the second waits, then finds the work done.
if command -v flock >/dev/null; then
    exec 9>"$venv.lock"
    flock 9
    if is_current; then
        exit 0
    fi
fi
find_python
make_venv
add_package
fingerprint "$lock" >"$venv/.made-from"
