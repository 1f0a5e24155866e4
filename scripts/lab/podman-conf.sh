#!/usr/bin/env bash
# podman-conf.sh IMAGE: prints a containers.conf with which podman can boot the lab's hosts on this computer.
#
# The OCI runtime is found by trying, because it depends on the control groups: crun refuses a computer with hybrid
# ones, where runc works; with version 2 both do.
set -euo pipefail
# shellcheck source=scripts/lab/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

image=${1:?usage: podman-conf.sh IMAGE}

# Prints a limit: this computer's own, but at most $2. podman asks for more by itself, which is refused where even root
# may not raise a limit; and podman 4 takes its own number of processes down to 32768 first.
limit() {
    local value
    value=$(ulimit "-H$1")
    if [ "$value" = unlimited ] || [ "$value" -gt "$2" ]; then
        value=$2
    fi
    echo "$value:$value"
}

configuration() {
    cat <<END
[containers]
# A host's /etc/hosts is its own, as on a real machine, and no copy of this computer's.
base_hosts_file = "none"
default_ulimits = ["nofile=$(limit n 65536)", "nproc=$(limit u 32768)"]

[engine]
runtime = "$1"
END
    # Without systemd there is nobody to ask for a control group, and no journal.
    [ -d /run/systemd/system ] || printf 'cgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
    printf '\n[network]\nnetwork_backend = "netavark"\n'
}

trial=$(mktemp)
trap 'rm -f "$trial"' EXIT
complaints=
for runtime in crun runc; do
    command -v "$runtime" >/dev/null || continue
    configuration "$runtime" >"$trial"
    if complaint=$(as_root env CONTAINERS_CONF="$trial" podman run --rm --systemd=always --network none --memory 64m \
        "$image" /bin/true 2>&1); then
        configuration "$runtime"
        exit
    fi
    complaints+=" With $runtime: ${complaint//$'\n'/ }."
done
die "podman cannot start a container with a memory limit on this computer.${complaints:- Neither crun nor runc is installed.}"
