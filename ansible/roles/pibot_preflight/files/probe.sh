# Prints what there is to know about a host as lines of YAML. Sent to the host's shell, and changes nothing there.
# It runs before anything is known about the host, so it wants no Python and no root.
PATH=$PATH:/usr/sbin:/sbin
# shellcheck disable=SC1091
. /etc/os-release
echo "hostname: \"$(hostname 2>/dev/null)\""
echo "os: \"$ID ${VERSION_ID:-}\""
echo "family: \"$ID ${ID_LIKE:-}\""
echo "architecture: \"$(dpkg --print-architecture 2>/dev/null)\""
echo "machine: \"$(uname -m)\""
echo "python: \"$(python3 -c 'import platform; print(platform.python_version())' 2>/dev/null)\""
echo "glibc: \"$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d ' ' -f 2)\""
echo "systemd: \"$(systemctl --version 2>/dev/null | awk 'NR == 1 { print $2 }')\""
limit=$(cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null | head -n 1)
awk -v limit="$limit" '/^MemTotal/ { m = int($2 / 1024); l = int(limit / 1048576); if (l > 0 && l < m) m = l; print "memory_mb: " m }' /proc/meminfo
echo "disk_mb: $(df -Pm /home 2>/dev/null | awk 'NR == 2 { print $4 }')"
echo "time: $(date +%s)"
echo "memory_cgroup: $(grep -qs memory /sys/fs/cgroup/cgroup.controllers || awk '$1 == "memory" && $4 == 1 { found = 1 } END { exit !found }' /proc/cgroups && echo true || echo false)"
# shellcheck disable=SC2086
set -- $SSH_CONNECTION
# Without an SSH connection (ansible_connection=local) sshd's settings say where it listens, if not on 22.
echo "ssh_port: ${4:-$(cat /etc/ssh/sshd_config.d/*.conf /etc/ssh/sshd_config 2>/dev/null | awk 'tolower($1) == "port" { print $2; exit }')}"
echo "ssh_client: \"${1:-}\""
if [ -d "/lib/modules/$(uname -r)" ] || grep -qs 'ip_tables\|nf_tables' /proc/modules || [ -e /proc/net/ip_tables_names ] || [ -e /run/systemd/container ] || systemd-detect-virt --container --quiet 2>/dev/null; then echo "netfilter: true"; else echo "netfilter: false"; fi
echo "networks:"
# Whoever made the route: the kernel, NetworkManager, or dhcpcd (bullseye).
ip -4 route show scope link 2>/dev/null | awk '$1 ~ "/" { for (i = 1; i < NF; i++) if ($i == "src") print "  \"" $(i + 1) "\": \"" $1 "\"" }'
echo "users:"
getent passwd | cut -d : -f 1 | sed 's/.*/  - "&"/'
echo "units:"
for unit in /etc/systemd/system/pibot-*.service; do [ ! -e "$unit" ] || echo "  - \"${unit##*/}\""; done
echo "listening:"
ss -Htln 2>/dev/null | awk 'NF > 3 { sub(/.*:/, "", $4); print "  - " $4 }' | sort -u
echo "packages:"
dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 2>/dev/null | awk '$1 == "ii" { print "  - \"" $2 "\"" }' | grep -x '  - "\(ufw\|bubblewrap\|python3-venv\|iptables\|procps\|ca-certificates\|libseccomp2\)"'
sudo -n true 2>/dev/null && echo "sudo: true" || echo "sudo: false"
