#!/bin/sh
# Make a virtual environment from a hash-locked requirements file, and add this checkout's package.
#
#   scripts/bootstrap.sh runtime|openai|dev|bench|llama|litellm|ansible [FOLDER]
#
# FOLDER is .venv by default. Does nothing if it is up to date, and makes it again if it is incomplete or outdated.
# PYTHON names the interpreter; the default is python3, or the newest python3.x if python3 is too old.
set -eu

lock=${1:?usage: scripts/bootstrap.sh runtime|openai|dev|bench|llama|litellm|ansible [FOLDER]}
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
cd "$root"
venv=${2:-.venv}

fail() {
    echo "bootstrap: $*" >&2
    exit 1
}

# Identifies what an environment is made from. It includes the path, since an environment cannot be moved.
fingerprint() {
    { cat "requirements/$1.txt" scripts/bootstrap.sh && echo "$root"; } | sha256sum | cut -d ' ' -f 1
}

is_current() {
    [ -f "$venv/.made-from" ] || return 1
    made_from=$(cat "$venv/.made-from")
    "$venv/bin/python" -c '' 2>/dev/null || return 1
    [ "$made_from" = "$(fingerprint "$lock")" ] && return 0
    # The development environment has the runtime's packages too, with the same versions.
    case $lock in runtime | openai) [ "$made_from" = "$(fingerprint dev)" ] ;; *) return 1 ;; esac
}

# Ansible needs a newer Python on the control computer than PiBot on a node, and so do the servers for the tests.
case $lock in
    llama) what=llama.cpp oldest=3.10 ;;
    litellm) what=LiteLLM oldest=3.10 ;;
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
    # Debian and Ubuntu have ensurepip, which puts pip into an environment, in a separate package.
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

# Add the checkout's package without building it: put its source on the path, and write the command.
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

# Two runs at once would break each other's environment. The second one waits, and then has nothing to do.
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
