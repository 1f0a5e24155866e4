#!/usr/bin/env bash
# Installs what the lab needs on this computer, or says in one sentence what is missing. A second run installs nothing.
set -euo pipefail
# shellcheck source=scripts/lab/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ "$(uname -s)" = Linux ] || die "the lab boots systemd in containers, which needs Linux; this is $(uname -s)."

need_root

have() { PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null; }

# podman finds its network helper in its own folders, not in PATH.
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
    have iptables || echo iptables # netavark of Debian 12 drives this one,
    have nft || echo nftables # and that of Debian 13 this one, without asking for its package
    have ssh-keyscan || echo openssh-client
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || echo debian-archive-keyring
    # Docker's own packages bring a runc that conflicts with Debian's, so a second runtime is only installed
    # where none is there. runtime.sh finds out which one can boot systemd.
    have crun || echo crun
    have runc || echo runc
}

mapfile -t packages < <(missing_packages)
if [ "${#packages[@]}" -gt 0 ]; then
    have apt-get || die "the lab needs ${packages[*]}, and there is no apt-get to install them with; install them by hand."
    say "installing ${packages[*]}"
    as_root apt-get update -qq || die "apt-get update failed, and the lab needs ${packages[*]}; see the lines above."
    # --no-remove: never take away what the owner uses, such as another container engine.
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends --no-remove "${packages[@]}" </dev/null >/dev/null ||
        die "apt-get could not install ${packages[*]}; the lab needs Debian 12, Ubuntu 24.04, or later."
    mapfile -t packages < <(missing_packages)
    [ "${#packages[@]}" -eq 0 ] || die "${packages[*]} was installed but its program is still missing."
fi

say "this computer has what the lab needs"
