#!/usr/bin/env bash
# Installs the programs that the lab needs on this computer, or says in one sentence what is missing.
set -euo pipefail
# shellcheck source=scripts/lab/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ "$(uname -s)" = Linux ] || die "the lab boots systemd in containers, which needs Linux, and this is $(uname -s): run it on Linux."

need_root

have() { PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null; }

# podman looks for its network helper in these folders, not in PATH.
have_netavark() {
    local folder
    for folder in /usr/local/libexec/podman /usr/local/lib/podman /usr/libexec/podman /usr/lib/podman; do
        [ -x "$folder/netavark" ] && return
    done
    return 1
}

# Prints the packages whose programs are missing.
missing_packages() {
    have podman || echo podman
    have_netavark || echo netavark
    have mmdebstrap || echo mmdebstrap
    have iptables || echo iptables # netavark of Debian 12 needs it,
    have nft || echo nftables # and that of Debian 13 this one; its package does not depend on it
    have ssh-keyscan || echo openssh-client
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || echo debian-archive-keyring
    # A runc from Docker's packages conflicts with Debian's, so an existing one stays. podman-conf.sh finds out which of
    # the two can boot systemd.
    have crun || echo crun
    have runc || echo runc
}

mapfile -t packages < <(missing_packages)
if [ "${#packages[@]}" -gt 0 ]; then
    have apt-get || die "the lab needs ${packages[*]}, and this computer has no apt-get: install them yourself."
    say "installing ${packages[*]}"
    as_root apt-get update -qq || die "apt-get update failed, and the lab needs ${packages[*]}: see the lines above."
    # --no-remove: never remove a package of the owner, such as another container engine.
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends --no-remove "${packages[@]}" </dev/null >/dev/null ||
        die "apt-get could not install ${packages[*]}: use Debian 12, Ubuntu 24.04, or later."
    mapfile -t packages < <(missing_packages)
    [ "${#packages[@]}" -eq 0 ] || die "apt-get installed ${packages[*]}, but a program of it is still missing: check its package."
fi

say "this computer has what the lab needs"
