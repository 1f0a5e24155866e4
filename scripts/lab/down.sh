#!/usr/bin/env bash
# Removes all of the lab: connections, hosts, network, keys; with --images its images too. The archives in the cache
# folder stay. Succeeds if there is nothing to remove.
set -euo pipefail
# shellcheck source=scripts/lab/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Runs podman with the lab's configuration, if the lab got far enough to have one.
lab_podman() {
    local conf=$LAB_STATE/containers.conf
    if [ -e "$conf" ]; then
        as_root env CONTAINERS_CONF="$conf" podman "$@"
    else
        as_root podman "$@"
    fi
}

for connection in "$LAB_STATE"/cp/*; do
    [ ! -S "$connection" ] || ssh -F none -o ControlPath="$connection" -O exit lab 2>/dev/null || true
done

if command -v podman >/dev/null; then
    need_root
    mapfile -t containers < <(lab_podman ps --all --quiet --filter "label=pibot.lab=$LAB_NAME")
    if [ "${#containers[@]}" -gt 0 ]; then
        lab_podman rm --force --time 0 --volumes "${containers[@]}" >/dev/null
        say "removed ${#containers[@]} hosts"
    fi
    if lab_podman network exists "$LAB_NAME"; then
        bridge=$(lab_podman network inspect --format '{{.NetworkInterface}}' "$LAB_NAME")
        lab_podman network rm "$LAB_NAME" >/dev/null
        # podman leaves the bridge behind if it failed to start the first host.
        [ ! -e "/sys/class/net/$bridge" ] || as_root ip link delete "$bridge"
        say "removed the network"
    fi
    if [ "${1:-}" = --images ]; then
        mapfile -t images < <(lab_podman images --quiet --filter "reference=$LAB_IMAGE")
        # Fails if another lab still uses them, which is fine.
        if [ "${#images[@]}" -gt 0 ] && lab_podman rmi "${images[@]}" >/dev/null 2>&1; then
            say "removed the images; their archives stay in $LAB_CACHE, for a quick next start"
        fi
    fi
fi

if [ -e "$LAB_STATE" ]; then
    rm -rf "$LAB_STATE"
    say "removed the keys"
fi
