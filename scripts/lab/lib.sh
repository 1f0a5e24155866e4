# shellcheck shell=bash disable=SC2034 # the names are for the scripts that source this file
# Names and functions of the lab's scripts. Sourced, never run.
#
# PIBOT_LAB        the lab's name: the prefix of its containers and the name of its network
# PIBOT_LAB_CACHE  the folder for the images' archives, which stay between runs

LAB_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
LAB_NAME=${PIBOT_LAB:-pibot-lab}
LAB_CACHE=${PIBOT_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pibot-lab}
LAB_STATE=$LAB_ROOT/.cache/lab/$LAB_NAME
LAB_IMAGE=localhost/pibot-lab
LAB_RELEASES=(trixie bookworm bullseye)
export LC_ALL=C.UTF-8

say() { printf 'lab: %s\n' "$*"; }

die() {
    printf 'lab: %s\n' "$*" >&2
    exit 1
}

# Runs a command as root. sudo may ask for a password only if there is a terminal to type it in.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif [ -t 0 ]; then
        sudo "$@"
    else
        sudo -n "$@"
    fi
}

need_root() {
    if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
        die "the lab needs root for containers that boot systemd: run this as root, or install sudo."
    fi
    as_root true || die "the lab needs root for containers that boot systemd, and sudo refused: run this as root."
}

[[ $LAB_NAME =~ ^pibot-[a-z0-9-]{1,20}$ ]] ||
    die "PIBOT_LAB is '$LAB_NAME': use pibot- and up to 20 small letters, digits and hyphens."
