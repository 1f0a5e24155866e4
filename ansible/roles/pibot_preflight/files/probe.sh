# Prints facts about a host as lines of YAML, and changes nothing. pibot_preflight sends this file to the host's /bin/sh.
# It runs before anything is known about the host, so it needs neither Python nor root, and each command that may be
# missing or fail is silenced: pibot_preflight refuses the host for an empty answer, with a reason.

# Over SSH a user's PATH often lacks these, and ss, ip and dpkg-query may be in them.
PATH=$PATH:/usr/sbin:/sbin

exists() {
    [ -e "$1" ]
}

first_word() {
    awk 'NR == 1 { print $1 }'
}

# --- system ---

# shellcheck disable=SC1091 # it is the host's file
. /etc/os-release
echo "hostname: \"$(hostname 2>/dev/null)\""
echo "os: \"$ID ${VERSION_ID:-}\""
echo "family: \"$ID ${ID_LIKE:-}\""
# Of the programs, not of the kernel (machine): a 32-bit system under a 64-bit kernel is common on a Pi.
echo "architecture: \"$(dpkg --print-architecture 2>/dev/null)\""
echo "machine: \"$(uname -m)\""
echo "python: \"$(python3 -c 'import platform; print(platform.python_version())' 2>/dev/null)\""
echo "glibc: \"$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d ' ' -f 2)\""
echo "systemd: \"$(systemctl --version 2>/dev/null | awk 'NR == 1 { print $2 }')\""
# The control computer compares it with its own clock.
echo "time: $(date +%s)"

# --- memory and disk ---

# Megabytes of memory, or of the control group's limit (version 2, version 1) if that is lower, as in a container.
memory_mb() {
    limit=$(cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null | first_word)
    awk -v limit="$limit" '
        /^MemTotal/ {
            total = int($2 / 1024)
            allowed = int(limit / 1048576)
            print (allowed > 0 && allowed < total) ? allowed : total
        }' /proc/meminfo
}

# Whether units can limit memory. Raspberry Pi OS turns the kernel's memory control group off by default.
memory_cgroup() {
    grep -qs memory /sys/fs/cgroup/cgroup.controllers ||
        awk '$1 == "memory" && $4 == 1 { found = 1 } END { exit !found }' /proc/cgroups
}

echo "memory_mb: $(memory_mb)"
echo "disk_mb: $(df -Pm /home 2>/dev/null | awk 'NR == 2 { print $4 }')"
if memory_cgroup; then echo "memory_cgroup: true"; else echo "memory_cgroup: false"; fi

# --- network ---

# The port of sshd's configuration, for a host that is not reached over SSH (ansible_connection=local).
configured_ssh_port() {
    cat /etc/ssh/sshd_config.d/*.conf /etc/ssh/sshd_config 2>/dev/null |
        awk 'tolower($1) == "port" { print $2; exit }'
}

# Whether the firewall's modules can be loaded. After an upgrade of the kernel those of the running one are gone until a
# reboot. A container uses the host's.
netfilter() {
    exists "/lib/modules/$(uname -r)" ||
        grep -qs 'ip_tables\|nf_tables' /proc/modules ||
        exists /proc/net/ip_tables_names ||
        exists /run/systemd/container ||
        systemd-detect-virt --container --quiet 2>/dev/null
}

# SSH_CONNECTION is "client address, client port, own address, own port": the port is the one that the firewall must
# keep open, also behind a port forwarding.
# shellcheck disable=SC2086 # split on purpose
set -- $SSH_CONNECTION
echo "ssh_client: \"${1:-}\""
echo "ssh_port: ${4:-$(configured_ssh_port)}"
if netfilter; then echo "netfilter: true"; else echo "netfilter: false"; fi

# Each own address with its network. Not filtered by "proto": the kernel, NetworkManager or dhcpcd (bullseye) may have
# made the route.
echo "networks:"
ip -4 route show scope link 2>/dev/null | awk '
    $1 ~ "/" {
        for (i = 1; i < NF; i++)
            if ($i == "src")
                print "  \"" $(i + 1) "\": \"" $1 "\""
    }'

echo "listening:"
ss -Htln 2>/dev/null | awk 'NF > 3 { sub(/.*:/, "", $4); print "  - " $4 }' | sort -u

# --- what is there already ---

echo "users:"
getent passwd | cut -d : -f 1 | sed 's/.*/  - "&"/'

echo "units:"
for unit in /etc/systemd/system/pibot-*.service; do
    if exists "$unit"; then echo "  - \"${unit##*/}\""; fi
done

# Those of pibot_base_packages. One that is not named here would count as installed by PiBot, and an uninstall would
# remove it.
echo "packages:"
dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 2>/dev/null |
    awk '$1 == "ii" { print "  - \"" $2 "\"" }' |
    grep -x '  - "\(ufw\|bubblewrap\|python3-venv\|iptables\|procps\|ca-certificates\|libseccomp2\)"'

# --- rights ---

if sudo -n true 2>/dev/null; then echo "sudo: true"; else echo "sudo: false"; fi
