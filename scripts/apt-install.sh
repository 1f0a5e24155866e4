#!/bin/sh
# Install packages of Debian or Ubuntu, as root or through sudo. If neither is possible, name the missing packages and
# fail.
#
#   scripts/apt-install.sh PACKAGE...
set -eu

give_up() {
    echo "These system packages are missing: $*. Install them as root: apt-get install $*" >&2
    exit 1
}

command -v apt-get >/dev/null || give_up "$@"
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root='sudo -n'
elif command -v sudo >/dev/null && [ -t 0 ] && [ -t 2 ]; then
    echo "Installing $* (sudo may ask for your password) ..." >&2
    as_root=sudo
else
    give_up "$@"
fi

install() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >&2
}

# If the package lists are missing or old, apt finds the package only after an update.
install "$@" || { $as_root apt-get update -qq >&2 && install "$@"; } || give_up "$@"
