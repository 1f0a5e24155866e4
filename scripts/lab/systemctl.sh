#!/bin/sh
# Stands in for systemctl where systemd can't boot (scripts/lab/arm64.sh). It starts a unit's command in the unit's folder
# and as its user, and ignores the unit's other directives.
set -eu

for unit; do :; done # the last argument
unit=${unit%.service}
file=/etc/systemd/system/$unit.service
pid=/run/$unit.pid

value() { sed -n "s/^$1=//p" "$file"; }
is_active() { [ -e "$pid" ] && kill -0 "$(cat "$pid")" 2>/dev/null; }
stop() { ! is_active || kill "$(cat "$pid")"; }
start() {
    cd "$(value WorkingDirectory)"
    setsid runuser -u "$(value User)" -- sh -c "exec $(value ExecStart)" </dev/null >>"/var/log/$unit.log" 2>&1 &
    echo $! >"$pid"
}

case $1 in
    --version) echo 'systemd stand-in' ;;
    show) printf 'LoadState=%s\nActiveState=%s\n' loaded "$(is_active && echo active || echo inactive)" ;;
    is-enabled) [ -e "$pid" ] ;;
    start | restart) stop && start ;;
    stop) stop ;;
esac
