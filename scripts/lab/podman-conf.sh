#!/usr/bin/env bash
# podman-conf.sh IMAGE: prints a containers.conf with which podman can boot systemd on this computer.
#
# Tries each OCI runtime, because the right one depends on the control groups: on hybrid ones crun refuses and runc works;
# on version 2 both work.
set -euo pipefail
# shellcheck source=scripts/lab/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

image=${1:?usage: podman-conf.sh IMAGE}

# Prints this computer's own limit of a kind ($1), but at most $2. By default podman asks for more, which fails where even
# root may not raise a limit; and podman 4 lowers its own number of processes to 32768 first.
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
# Each host has its own /etc/hosts, as a real machine has, not a copy of this computer's.
base_hosts_file = "none"
default_ulimits = ["nofile=$(limit n 65536)", "nproc=$(limit u 32768)"]

[engine]
runtime = "$1"
END
    # Without systemd on this computer there is no manager for control groups, and no journal.
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
die "podman can't start a container with a memory limit on this computer.${complaints:- Install crun or runc.}"
